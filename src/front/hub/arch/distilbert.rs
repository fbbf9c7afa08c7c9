//! DistilBERT (arXiv 1910.01108): BERT's layers under other names, without token types and pooler.

use serde::Deserialize;

use super::blocks::{
    Activation, AdapterScopes, Embeddings, EncoderLayer, LayerWeights, Positions, TokenTypes, heads as heads_of,
};
use super::classes::ENCODER;
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::{self, Classifier, Heads, MaskedLm};
use super::{Context, Family};
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::Graph;
use crate::ports::PortKind;

pub(super) const FAMILY: Family = Family {
    model_type: "distilbert",
    class: "DistilBert",
    classes: ENCODER,
    prefix: "distilbert",
    defaults: r#"{
        "vocab_size": 30522, "max_position_embeddings": 512, "n_layers": 6, "n_heads": 12, "dim": 768,
        "hidden_dim": 3072, "activation": "gelu"
    }"#,
    renamed: &[("hidden_size", "dim"), ("num_attention_heads", "n_heads"), ("num_hidden_layers", "n_layers")],
    classifier: ClassifierOf::TextsWith("pre_classifier.weight"),
    shared: &[Shared::one(
        "distilbert.embeddings.word_embeddings.weight",
        ["vocab_projector.weight", "vocab_projector.bias"],
    )],
    restated: None,
    unread: &[],
    decoder: None,
    build,
};

/// The code of `transformers` fixes it.
const EPSILON: f32 = 1e-12;

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    activation: Activation,
    max_position_embeddings: usize,
}

fn build(context: &Context) -> Result<Graph> {
    let config: Config = context.config.get()?;
    let hidden = Size { n: config.dim, field: "dim" };
    let vocabulary = Size { n: config.vocab_size, field: "vocab_size" };
    let layer = EncoderLayer {
        hidden,
        inner: Size { n: config.hidden_dim, field: "hidden_dim" },
        heads: heads_of(config.n_heads, config.dim)?,
        activation: config.activation,
        epsilon: EPSILON,
    };
    let mut blocks = context.blocks("distilbert");
    let distilbert = context.weights.sub("distilbert");
    let ids = blocks.token_input(PortKind::TokenIds);
    let mask = blocks.token_input(PortKind::AttentionMask);

    let embeddings = Embeddings {
        vocabulary,
        positions: Size { n: config.max_position_embeddings, field: "max_position_embeddings" },
        counted: Positions::Absolute,
        token_types: TokenTypes::None,
        width: hidden,
        epsilon: EPSILON,
    };
    let mut x = blocks.embeddings(&distilbert.sub("embeddings"), &embeddings, ids)?;
    for i in 0..config.n_layers {
        let weights = layer_weights(&distilbert.sub("transformer").item("layer", i));
        x = blocks.encoder_layer(&weights, i, &layer, x, mask)?;
    }

    let decoder = context.weights.sub("vocab_projector");
    let heads = Heads {
        encoder: distilbert.clone(),
        hidden,
        embedding: hidden,
        vocabulary,
        epsilon: EPSILON,
        pooler: None,
        classifier: Classifier::FirstToken {
            dense: context.weights.sub("pre_classifier"),
            activation: Activation::Relu,
            out: context.weights.sub("classifier"),
        },
        masked_lm: MaskedLm {
            dense: context.weights.sub("vocab_transform"),
            norm: context.weights.sub("vocab_layer_norm"),
            bias: decoder.clone(),
            decoder,
            tied: distilbert.sub("embeddings.word_embeddings"),
        },
        masked_lm_activation: config.activation,
    };
    heads::build(&mut blocks, context, &heads, x, mask)?;
    Ok(blocks.finish())
}

fn layer_weights<'a>(p: &Scope<'a>) -> LayerWeights<'a> {
    let attention = p.sub("attention");
    LayerWeights {
        query: attention.sub("q_lin"),
        key: attention.sub("k_lin"),
        value: attention.sub("v_lin"),
        attention_output: attention.sub("out_lin"),
        attention,
        attention_norm: p.sub("sa_layer_norm"),
        ffn_in: p.sub("ffn.lin1"),
        ffn_out: p.sub("ffn.lin2"),
        ffn_norm: p.sub("output_layer_norm"),
        adapters: Some(AdapterScopes {
            attention: p.sub("attention_adapters.adapters"),
            ffn: p.sub("output_adapters.adapters"),
            number: None,
            attention_swapped: false,
        }),
    }
}
