//! RoBERTa (arXiv 1907.11692) and those that share its code: XLM-RoBERTa (1911.02116), CamemBERT (1911.03894).
//!
//! BERT's layers; positions count from `pad_token_id + 1` and skip padding, and there is one segment.

use serde::Deserialize;

use super::blocks::{Activation, Embeddings, LayerWeights, Positions, Segments};
use super::config::EncoderConfig;
use super::flexible::{self, Encoded};
use super::heads::{self, MaskedLm};
use super::{Drawing, Family};
use crate::checkpoint::json;
use crate::error::Result;
use crate::ir::{Graph, Part};
use crate::task::Task;

pub(super) const ROBERTA: Family = Family { model_type: "roberta", prefix: "roberta", draw };
pub(super) const XLM_ROBERTA: Family = Family { model_type: "xlm-roberta", prefix: "roberta", draw };
pub(super) const CAMEMBERT: Family = Family { model_type: "camembert", prefix: "roberta", draw };

#[derive(Deserialize)]
struct Config {
    #[serde(default = "one")]
    pad_token_id: i64,
}

/// What `transformers` takes where a configuration is silent.
fn one() -> i64 {
    1
}

fn draw(drawing: &Drawing) -> Result<Graph> {
    let config = EncoderConfig::read(drawing.config)?;
    let Config { pad_token_id: pad } = json::parse(drawing.config, "config.json")?;
    let (hidden, layer) = (config.hidden(), config.layer()?);
    let mut blocks = drawing.blocks("roberta");
    let roberta = drawing.weights.sub("roberta");
    let ids = blocks.token_input("input_ids");
    let mask = blocks.token_input("attention_mask");

    let embeddings = Embeddings {
        vocabulary: config.vocabulary(),
        positions: config.positions(),
        counted: Positions::SkipPadding { pad },
        segments: Segments::First(config.segments()),
        width: hidden,
        epsilon: config.layer_norm_eps,
    };
    let mut x = blocks.embeddings(&roberta.sub("embeddings"), &embeddings, ids)?;
    for i in 0..config.num_hidden_layers {
        let weights = LayerWeights::bert(&roberta.sub("encoder").item("layer", i));
        x = blocks.encoder_layer(&weights, i, &layer, x, mask)?;
    }

    if let Some(head) = drawing.flexible_head() {
        let pooled = heads::pooler(&mut blocks, &roberta.sub("pooler.dense"), hidden, x)?;
        let given = Encoded { encoder: &roberta, hidden, embedding: hidden, epsilon: config.layer_norm_eps, x, pooled };
        flexible::draw(&mut blocks, drawing, head, &given)?;
        return Ok(blocks.finish());
    }
    match drawing.task {
        Task::FeatureExtraction => {
            let pooled = heads::pooler(&mut blocks, &roberta.sub("pooler.dense"), hidden, x)?;
            heads::features(&mut blocks, x, pooled)?;
        }
        Task::SentenceSimilarity => heads::sentence(&mut blocks, drawing, x, mask)?,
        Task::TextClassification => {
            let p = drawing.weights.sub("classifier");
            blocks.role(Part::Pooler);
            let first = heads::first_token_dense(&mut blocks, &p.sub("dense"), hidden, Activation::Tanh, x)?;
            heads::classification(&mut blocks, drawing, &p.sub("out_proj"), hidden, first)?;
        }
        Task::TokenClassification | Task::QuestionAnswering => heads::per_token(&mut blocks, drawing, hidden, x)?,
        Task::FillMask => {
            let weights = MaskedLm::roberta(drawing.weights.sub("lm_head"), &roberta);
            let sizes = [hidden, hidden, config.vocabulary()];
            heads::masked_lm(&mut blocks, &weights, sizes, Activation::Gelu, config.layer_norm_eps, x)?;
        }
    }
    Ok(blocks.finish())
}
