//! ELECTRA (arXiv 2003.10555): BERT's layers over embeddings that may be narrower, and no pooler.

use serde::Deserialize;

use super::blocks::{Activation, Embeddings, LayerWeights, Positions, TokenTypes};
use super::classes::ENCODER;
use super::config::EncoderConfig;
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::{self, Classifier, Heads, MaskedLm};
use super::{Context, Family};
use crate::error::Result;
use crate::front::hub::checkpoint::Size;
use crate::ir::Graph;
use crate::ports::PortKind;

pub(super) const FAMILY: Family = Family {
    model_type: "electra",
    class: "Electra",
    classes: ENCODER,
    prefix: "electra",
    defaults: r#"{
        "vocab_size": 30522, "hidden_size": 256, "num_hidden_layers": 12, "num_attention_heads": 4,
        "intermediate_size": 1024, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "embedding_size": 128
    }"#,
    renamed: &[],
    classifier: ClassifierOf::TokensWithout("sequence_summary.summary.weight"),
    shared: &[Shared::one(
        "electra.embeddings.word_embeddings.weight",
        ["generator_lm_head.weight", "generator_lm_head.bias"],
    )],
    restated: None,
    unread: &[],
    decoder: None,
    build,
};

#[derive(Deserialize)]
struct Config {
    embedding_size: usize,
}

fn build(context: &Context) -> Result<Graph> {
    let config = EncoderConfig::read(&context.config)?;
    let own: Config = context.config.get()?;
    let (hidden, layer) = (config.hidden(), config.layer()?);
    let width = Size { n: own.embedding_size, field: "embedding_size" };
    let mut blocks = context.blocks("electra");
    let electra = context.weights.sub("electra");
    let ids = blocks.token_input(PortKind::TokenIds);
    let mask = blocks.token_input(PortKind::AttentionMask);
    let types = blocks.token_input(PortKind::TokenTypes);

    let embeddings = Embeddings {
        vocabulary: config.vocabulary(),
        positions: config.positions(),
        counted: Positions::Absolute,
        token_types: TokenTypes::Input(types, config.token_types()),
        width,
        epsilon: config.layer_norm_eps,
    };
    let mut x = blocks.embeddings(&electra.sub("embeddings"), &embeddings, ids)?;
    if width.n != hidden.n {
        x = blocks.linear(&electra.sub("embeddings_project"), width, hidden, x)?;
    }
    for i in 0..config.num_hidden_layers {
        let weights = LayerWeights::bert(&electra.sub("encoder").item("layer", i));
        x = blocks.encoder_layer(&weights, i, &layer, x, mask)?;
    }

    let (p, decoder) = (context.weights.sub("generator_predictions"), context.weights.sub("generator_lm_head"));
    let heads = Heads {
        encoder: electra.clone(),
        hidden,
        embedding: width,
        vocabulary: config.vocabulary(),
        epsilon: config.layer_norm_eps,
        pooler: None,
        classifier: Classifier::first_token(&context.weights.sub("classifier"), Activation::Gelu),
        masked_lm: MaskedLm {
            dense: p.sub("dense"),
            norm: p.sub("LayerNorm"),
            bias: decoder.clone(),
            decoder,
            tied: electra.sub("embeddings.word_embeddings"),
        },
        masked_lm_activation: Activation::Gelu,
    };
    heads::build(&mut blocks, context, &heads, x, mask)?;
    Ok(blocks.finish())
}
