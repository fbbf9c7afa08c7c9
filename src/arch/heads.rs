//! What stands on top of an encoder, by task.

use super::Drawing;
use super::blocks::Blocks;
use crate::checkpoint::Size;
use crate::error::{Error, Result};
use crate::ir::{Graph, Part, ValueId};
use crate::task::Task;

/// Draws the head of the drawing's task over the hidden states `x`, and finishes the graph. `pool` draws the family's
/// pooler, where the checkpoint has one.
pub(super) fn draw(
    mut blocks: Blocks,
    drawing: &Drawing,
    x: ValueId,
    hidden: Size,
    pool: impl FnOnce(&mut Blocks, ValueId) -> Result<Option<ValueId>>,
) -> Result<Graph> {
    match drawing.task {
        Task::FeatureExtraction => {
            let pooled = pool(&mut blocks, x)?;
            blocks.output("last_hidden_state", x)?;
            if let Some(pooled) = pooled {
                blocks.output("pooler_output", pooled)?;
            }
        }
        Task::TextClassification => {
            let pooled = pool(&mut blocks, x)?.ok_or_else(|| {
                Error::bad_input("a classifier needs the pooler, which the checkpoint does not have")
                    .hint("was the model saved with add_pooling_layer=False?")
            })?;
            let logits = classifier(&mut blocks, drawing, hidden, pooled)?;
            blocks.output("logits", logits)?;
        }
    }
    Ok(blocks.finish())
}

fn classifier(blocks: &mut Blocks, drawing: &Drawing, hidden: Size, pooled: ValueId) -> Result<ValueId> {
    let p = drawing.weights.sub("classifier");
    if !p.has("weight") {
        return Err(Error::bad_input("text classification needs a classifier, and there is no `classifier.weight`")
            .hint("add --adapter with a trained classifier, or choose --task feature-extraction"));
    }
    blocks.role(Part::Head.into());
    let labels = Size { n: p.shape("weight")?.first().copied().unwrap_or_default(), field: "id2label" };
    if let Some(problem) = &drawing.common.problem_type
        && problem != "single_label_classification"
    {
        return Err(Error::unsupported("only single-label classification is drawn").at("config.json: problem_type"));
    }
    blocks.linear(&p, hidden, labels, pooled)
}
