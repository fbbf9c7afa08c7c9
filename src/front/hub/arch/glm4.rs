//! GLM-4 of 2025: norms before and after each block, half of each head turned, by neighbouring channels, and a gated
//! feed-forward block by one projection.

use super::blocks::{Blocks, DecoderInputs};
use super::config::Fields;
use super::llama::{self, Layer};
use super::rope::{self, Rope};
use super::stack::{LABELS, Sizes, Stack, family};
use super::{Context, Family, Restated};
use crate::error::Result;
use crate::front::hub::checkpoint::Scope;
use crate::ir::{Graph, ValueId};

pub(super) const FAMILY: Family = family(
    ("glm4", "Glm4"),
    r#"{
        "pad_token_id": 151329,
        "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "hidden_act": "silu",
        "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-7, "tie_word_embeddings": false,
        "attention_bias": true
    }"#,
    LABELS,
    build,
    restated,
);

const ROPE: Rope = Rope::partial(10_000.0, 0.5);

fn restated(fields: &Fields) -> Result<Restated> {
    rope::restated(fields, &ROPE)
}

fn build(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "rms_norm_eps")?;
    let stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?.interleaved();
    let qkv_bias = context.config.field("attention_bias")?;
    let layer = Layer { qkv_bias, ..Layer::new(&sizes.layer, &rotation) };
    llama::layers_of(stack, &sizes, block, layer.norm, std::iter::repeat_n(&layer, sizes.layers))
}

/// Norm, attention, norm, residual; norm, gated feed-forward, norm, residual.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, hidden, x)?;
    let attended = llama::attention(blocks, &p.sub("self_attn"), i, layer, normed, inputs)?;
    let attended = blocks.attention_norm(layer.norm, &p.sub("post_self_attn_layernorm"), i, hidden, attended)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    let out = blocks.fused_gated(&p.sub("mlp"), i, layer.sizes, normed)?;
    let out = blocks.feed_forward_norm(layer.norm, &p.sub("post_mlp_layernorm"), i, hidden, out)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}
