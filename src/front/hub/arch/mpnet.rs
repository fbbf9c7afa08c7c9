//! MPNet (arXiv 2004.09297): BERT's layers with positions that skip padding, and a bias by relative position that all
//! layers share.

use super::blocks::{Activation, AttentionInputs, Embeddings, LayerWeights, Positions, TokenTypes};
use super::classes::ENCODER;
use super::config::EncoderConfig;
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::{self, Classifier, Heads, MaskedLm};
use super::{Context, Family};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::Scope;
use crate::ir::Graph;
use crate::ports::PortKind;

pub(super) const FAMILY: Family = Family {
    model_type: "mpnet",
    class: "MPNet",
    classes: ENCODER,
    prefix: "mpnet",
    defaults: r#"{
        "vocab_size": 30527, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "layer_norm_eps": 1e-12,
        "relative_attention_num_buckets": 32
    }"#,
    renamed: &[],
    classifier: ClassifierOf::TokensWithout("mpnet.pooler.dense.weight"),
    shared: &[Shared::two(
        "mpnet.embeddings.word_embeddings.weight",
        ["lm_head.decoder.weight", "lm_head.decoder.bias"],
        "lm_head.bias",
    )],
    restated: None,
    unread: &[],
    decoder: None,
    build,
};

/// The code of `transformers` fixes it, regardless of `relative_attention_num_buckets`.
const BUCKETS: usize = 32;

/// The code of `transformers` fixes it, regardless of `pad_token_id`.
const PAD: i64 = 1;

fn build(context: &Context) -> Result<Graph> {
    let config = EncoderConfig::read(&context.config)?;
    let buckets = context.config.size("relative_attention_num_buckets");
    if buckets != Some(BUCKETS) {
        return Err(Error::unsupported(format!("only {BUCKETS} buckets of distances are built"))
            .at("config.json: relative_attention_num_buckets"));
    }
    let (hidden, layer) = (config.hidden(), config.layer()?);
    let mut blocks = context.blocks("mpnet");
    let mpnet = context.weights.sub("mpnet");
    let ids = blocks.token_input(PortKind::TokenIds);
    let mask = blocks.token_input(PortKind::AttentionMask);

    let embeddings = Embeddings {
        vocabulary: config.vocabulary(),
        positions: config.positions(),
        counted: Positions::SkipPadding { pad: PAD },
        token_types: TokenTypes::None,
        width: hidden,
        epsilon: config.layer_norm_eps,
    };
    let mut x = blocks.embeddings(&mpnet.sub("embeddings"), &embeddings, ids)?;
    let encoder = mpnet.sub("encoder");
    let bias = blocks.relative_bias(&encoder.sub("relative_attention_bias"), &layer, config.positions(), ids)?;
    for i in 0..config.num_hidden_layers {
        let weights = layer_weights(&encoder.item("layer", i));
        x = blocks.encoder_layer(&weights, i, &layer, x, AttentionInputs { mask, bias: Some(bias) })?;
    }

    let heads = Heads {
        encoder: mpnet.clone(),
        hidden,
        embedding: hidden,
        vocabulary: config.vocabulary(),
        epsilon: config.layer_norm_eps,
        pooler: Some(mpnet.sub("pooler.dense")),
        classifier: Classifier::first_token(&context.weights.sub("classifier"), Activation::Tanh),
        masked_lm: MaskedLm::roberta(context.weights.sub("lm_head"), &mpnet),
        masked_lm_activation: Activation::Gelu,
    };
    heads::build(&mut blocks, context, &heads, x, mask)?;
    Ok(blocks.finish())
}

fn layer_weights<'a>(p: &Scope<'a>) -> LayerWeights<'a> {
    let attention = p.sub("attention.attn");
    LayerWeights {
        query: attention.sub("q"),
        key: attention.sub("k"),
        value: attention.sub("v"),
        attention_output: attention.sub("o"),
        attention,
        attention_norm: p.sub("attention.LayerNorm"),
        ffn_in: p.sub("intermediate.dense"),
        ffn_out: p.sub("output.dense"),
        ffn_norm: p.sub("output.LayerNorm"),
        adapters: None,
    }
}
