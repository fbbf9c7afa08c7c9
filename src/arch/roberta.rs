//! RoBERTa (arXiv 1907.11692) and those that share its code: XLM-RoBERTa (1911.02116), CamemBERT (1911.03894).
//!
//! BERT's layers; positions count from `pad_token_id + 1` and skip padding, and there is one segment.

use serde::Deserialize;

use super::blocks::{Activation, Embeddings, LayerWeights, Positions, Segments};
use super::config::EncoderConfig;
use super::heads::{self, Classifier, Heads, MaskedLm};
use super::shared::Shared;
use super::{Drawing, Family};
use crate::checkpoint::json;
use crate::error::Result;
use crate::ir::Graph;

pub(super) const ROBERTA: Family = Family {
    model_type: "roberta",
    prefix: "roberta",
    shared: &[Shared::two(
        "roberta.embeddings.word_embeddings.weight",
        ["lm_head.decoder.weight", "lm_head.decoder.bias"],
        "lm_head.bias",
    )],
    draw,
};
pub(super) const XLM_ROBERTA: Family = Family { model_type: "xlm-roberta", ..ROBERTA };
pub(super) const CAMEMBERT: Family = Family { model_type: "camembert", ..ROBERTA };

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

    let heads = Heads {
        encoder: roberta.clone(),
        hidden,
        embedding: hidden,
        vocabulary: config.vocabulary(),
        epsilon: config.layer_norm_eps,
        pooler: Some(roberta.sub("pooler.dense")),
        classifier: Classifier::first_token(&drawing.weights.sub("classifier"), Activation::Tanh),
        masked_lm: MaskedLm::roberta(drawing.weights.sub("lm_head"), &roberta),
        masked_lm_activation: Activation::Gelu,
    };
    heads::draw(&mut blocks, drawing, &heads, x, mask)?;
    Ok(blocks.finish())
}
