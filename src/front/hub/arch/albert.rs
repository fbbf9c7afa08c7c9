//! ALBERT (arXiv 1909.11942): narrow embeddings, and layers that share their weights in groups.

use serde::Deserialize;

use super::blocks::{AdapterScopes, Embeddings, LayerWeights, Positions, TokenTypes};
use super::classes::ENCODER;
use super::config::EncoderConfig;
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::{self, Classifier, Heads, MaskedLm};
use super::{Context, Family};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::Graph;
use crate::ports::PortKind;

pub(super) const FAMILY: Family = Family {
    model_type: "albert",
    class: "Albert",
    classes: ENCODER,
    prefix: "albert",
    defaults: r#"{
        "vocab_size": 30000, "embedding_size": 128, "hidden_size": 4096, "num_hidden_layers": 12,
        "num_hidden_groups": 1, "num_attention_heads": 64, "intermediate_size": 16384, "inner_group_num": 1,
        "hidden_act": "gelu_new", "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12
    }"#,
    renamed: &[],
    classifier: ClassifierOf::TextsWith("albert.pooler.weight"),
    shared: &[Shared::two(
        "albert.embeddings.word_embeddings.weight",
        ["predictions.decoder.weight", "predictions.decoder.bias"],
        "predictions.bias",
    )],
    restated: None,
    unread: &[],
    decoder: None,
    build,
};

/// Most layers that are built: no tensor bounds their number, since they share their weights.
const MOST_LAYERS: usize = 1 << 10;

#[derive(Deserialize)]
struct Config {
    embedding_size: usize,
    num_hidden_groups: usize,
    inner_group_num: usize,
}

fn build(context: &Context) -> Result<Graph> {
    let config = EncoderConfig::read(&context.config)?;
    let own: Config = context.config.get()?;
    if own.num_hidden_groups == 0 || own.num_hidden_groups > config.num_hidden_layers {
        return Err(Error::bad_input(format!(
            "expected 1 to {} groups, found {}",
            config.num_hidden_layers, own.num_hidden_groups
        ))
        .at("config.json: num_hidden_groups"));
    }
    let layers = config.num_hidden_layers.saturating_mul(own.inner_group_num);
    if layers == 0 || layers > MOST_LAYERS {
        return Err(Error::bad_input(format!("expected 1 to {MOST_LAYERS} layers, found {layers}"))
            .at("config.json: num_hidden_layers × inner_group_num"));
    }
    let (hidden, layer) = (config.hidden(), config.layer()?);
    let width = Size { n: own.embedding_size, field: "embedding_size" };
    let mut blocks = context.blocks("albert");
    let albert = context.weights.sub("albert");
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
    let mut x = blocks.embeddings(&albert.sub("embeddings"), &embeddings, ids)?;
    let encoder = albert.sub("encoder");
    x = blocks.linear(&encoder.sub("embedding_hidden_mapping_in"), width, hidden, x)?;
    let mut built = 0;
    for i in 0..config.num_hidden_layers {
        // As `transformers` has it, in floating point: the group of a layer is ⌊i / (layers / groups)⌋.
        let group = (i as f64 / (config.num_hidden_layers as f64 / own.num_hidden_groups as f64)) as usize;
        for inner in 0..own.inner_group_num {
            let p = encoder.item("albert_layer_groups", group).item("albert_layers", inner);
            x = blocks.encoder_layer(
                &layer_weights(&p, group * own.inner_group_num + inner),
                built,
                &layer,
                x,
                mask,
            )?;
            built += 1;
        }
    }

    let p = context.weights.sub("predictions");
    let heads = Heads {
        encoder: albert.clone(),
        hidden,
        embedding: width,
        vocabulary: config.vocabulary(),
        epsilon: config.layer_norm_eps,
        pooler: Some(albert.sub("pooler")),
        classifier: Classifier::Pooled(context.weights.sub("classifier")),
        masked_lm: MaskedLm {
            dense: p.sub("dense"),
            norm: p.sub("LayerNorm"),
            decoder: p.sub("decoder"),
            tied: albert.sub("embeddings.word_embeddings"),
            bias: p,
        },
        masked_lm_activation: config.hidden_act,
    };
    heads::build(&mut blocks, context, &heads, x, mask)?;
    Ok(blocks.finish())
}

fn layer_weights<'a>(p: &Scope<'a>, number: usize) -> LayerWeights<'a> {
    let attention = p.sub("attention");
    LayerWeights {
        query: attention.sub("query"),
        key: attention.sub("key"),
        value: attention.sub("value"),
        attention_output: attention.sub("dense"),
        attention_norm: attention.sub("LayerNorm"),
        adapters: Some(AdapterScopes {
            attention: attention.sub("attention_adapters.adapters"),
            ffn: p.sub("output_adapters.adapters"),
            number: Some(number),
            attention_swapped: true,
        }),
        attention,
        ffn_in: p.sub("ffn"),
        ffn_out: p.sub("ffn_output"),
        ffn_norm: p.sub("full_layer_layer_norm"),
    }
}
