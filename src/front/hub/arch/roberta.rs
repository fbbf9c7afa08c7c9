//! RoBERTa (arXiv 1907.11692) and those that share its code: XLM-RoBERTa (1911.02116), CamemBERT (1911.03894).
//!
//! BERT's layers; positions count from `pad_token_id + 1` and skip padding, and there is one token type.

use serde::Deserialize;

use super::blocks::{Activation, Embeddings, LayerWeights, Positions, TokenTypes};
use super::classes::ENCODER;
use super::config::EncoderConfig;
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::{self, Classifier, Heads, MaskedLm};
use super::{Context, Family};
use crate::error::Result;
use crate::ir::Graph;
use crate::ports::PortKind;

pub(super) const ROBERTA: Family = Family {
    model_type: "roberta",
    class: "Roberta",
    classes: ENCODER,
    prefix: "roberta",
    defaults: r#"{
        "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "pad_token_id": 1
    }"#,
    renamed: &[],
    classifier: ClassifierOf::TokensWithout("roberta.pooler.dense.weight"),
    shared: &[Shared::two(
        "roberta.embeddings.word_embeddings.weight",
        ["lm_head.decoder.weight", "lm_head.decoder.bias"],
        "lm_head.bias",
    )],
    restated: None,
    unread: &[],
    decoder: None,
    build,
};

pub(super) const XLM_ROBERTA: Family =
    Family { model_type: "xlm-roberta", class: "XLMRoberta", defaults: DEFAULTS, ..ROBERTA };

pub(super) const CAMEMBERT: Family =
    Family { model_type: "camembert", class: "Camembert", defaults: DEFAULTS, ..ROBERTA };

/// The default of the two classes beside RoBERTa's: BERT's vocabulary.
const DEFAULTS: &str = r#"{
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "pad_token_id": 1
}"#;

#[derive(Deserialize)]
struct Config {
    pad_token_id: i64,
}

fn build(context: &Context) -> Result<Graph> {
    let config = EncoderConfig::read(&context.config)?;
    let Config { pad_token_id: pad } = context.config.get()?;
    let (hidden, layer) = (config.hidden(), config.layer()?);
    let mut blocks = context.blocks("roberta");
    let roberta = context.weights.sub("roberta");
    let ids = blocks.token_input(PortKind::TokenIds);
    let mask = blocks.token_input(PortKind::AttentionMask);

    let embeddings = Embeddings {
        vocabulary: config.vocabulary(),
        positions: config.positions(),
        counted: Positions::SkipPadding { pad },
        token_types: TokenTypes::First(config.token_types()),
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
        classifier: Classifier::first_token(&context.weights.sub("classifier"), Activation::Tanh),
        masked_lm: MaskedLm::roberta(context.weights.sub("lm_head"), &roberta),
        masked_lm_activation: Activation::Gelu,
    };
    heads::build(&mut blocks, context, &heads, x, mask)?;
    Ok(blocks.finish())
}
