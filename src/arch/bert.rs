//! BERT (arXiv 1810.04805), as `transformers` saves it: post-norm encoder, learned positions, two segments.

use super::blocks::{Embeddings, LayerWeights, Positions, Segments};
use super::config::EncoderConfig;
use super::flexible::{self, Encoded};
use super::heads::{self, MaskedLm};
use super::{Drawing, Family};
use crate::error::Result;
use crate::ir::Graph;
use crate::task::Task;

pub(super) const FAMILY: Family = Family { model_type: "bert", prefix: "bert", draw };

fn draw(drawing: &Drawing) -> Result<Graph> {
    let config = EncoderConfig::read(drawing.config)?;
    let (hidden, layer) = (config.hidden(), config.layer()?);
    let mut blocks = drawing.blocks("bert");
    let bert = drawing.weights.sub("bert");
    let ids = blocks.token_input("input_ids");
    let mask = blocks.token_input("attention_mask");
    let types = blocks.token_input("token_type_ids");

    let embeddings = Embeddings {
        vocabulary: config.vocabulary(),
        positions: config.positions(),
        counted: Positions::Absolute,
        segments: Segments::Input(types, config.segments()),
        width: hidden,
        epsilon: config.layer_norm_eps,
    };
    let mut x = blocks.embeddings(&bert.sub("embeddings"), &embeddings, ids)?;
    for i in 0..config.num_hidden_layers {
        let weights = LayerWeights::bert(&bert.sub("encoder").item("layer", i));
        x = blocks.encoder_layer(&weights, i, &layer, x, mask)?;
    }

    if let Some(head) = drawing.flexible_head() {
        let pooled = heads::pooler(&mut blocks, &bert.sub("pooler.dense"), hidden, x)?;
        let given = Encoded { encoder: &bert, hidden, embedding: hidden, epsilon: config.layer_norm_eps, x, pooled };
        flexible::draw(&mut blocks, drawing, head, &given)?;
        return Ok(blocks.finish());
    }
    match drawing.task {
        Task::FeatureExtraction => {
            let pooled = heads::pooler(&mut blocks, &bert.sub("pooler.dense"), hidden, x)?;
            heads::features(&mut blocks, x, pooled)?;
        }
        Task::SentenceSimilarity => heads::sentence(&mut blocks, drawing, x, mask)?,
        Task::TextClassification => {
            let pooled = heads::need_pooler(heads::pooler(&mut blocks, &bert.sub("pooler.dense"), hidden, x)?)?;
            heads::classification(&mut blocks, drawing, &drawing.weights.sub("classifier"), hidden, pooled)?;
        }
        Task::TokenClassification | Task::QuestionAnswering => heads::per_token(&mut blocks, drawing, hidden, x)?,
        Task::FillMask => {
            let p = drawing.weights.sub("cls.predictions");
            let weights = MaskedLm {
                dense: p.sub("transform.dense"),
                norm: p.sub("transform.LayerNorm"),
                decoder: p.sub("decoder"),
                tied: bert.sub("embeddings.word_embeddings"),
                bias: p,
            };
            let sizes = [hidden, hidden, config.vocabulary()];
            heads::masked_lm(&mut blocks, &weights, sizes, config.hidden_act, config.layer_norm_eps, x)?;
        }
    }
    Ok(blocks.finish())
}
