//! OLMo 2 (arXiv 2501.00656): Llama's blocks with the norms after them, and queries and keys normed as a whole.

use super::blocks::{Blocks, DecoderInputs, SEPARATE};
use super::llama::{self, Layer, ROPE, restated};
use super::stack::{LANGUAGE, Sizes, Stack, family};
use super::{Context, Family};
use crate::error::Result;
use crate::front::hub::checkpoint::Scope;
use crate::ir::{Graph, Part, Role, ValueId};

pub(super) const FAMILY: Family = family(
    ("olmo2", "Olmo2"),
    r#"{
        "pad_token_id": 1,
        "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false, "attention_bias": false
    }"#,
    LANGUAGE,
    build,
    restated,
);

fn build(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "rms_norm_eps")?;
    let bias = context.config.field("attention_bias")?;
    let stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let layer = Layer { qkv_bias: bias, out_bias: bias, ..Layer::new(&sizes.layer, &rotation) };
    llama::layers_of(stack, &sizes, block, layer.norm, std::iter::repeat_n(&layer, sizes.layers))
}

/// Attention, norm, residual; gated feed-forward, norm, residual.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let attended = attention(blocks, &p.sub("self_attn"), i, layer, x, inputs)?;
    let attended = blocks.attention_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, attended)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let out = blocks.gated(&p.sub("mlp"), i, layer.sizes, false, x)?;
    let out = blocks.feed_forward_norm(layer.norm, &p.sub("post_feedforward_layernorm"), i, hidden, out)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}

/// Attention whose queries and keys are normed over all heads together.
fn attention(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let names = SEPARATE.qkv.map(|name| p.sub(name));
    let [query, key, value] = blocks.separate_projections(names.each_ref(), i, layer.sizes, layer.qkv_bias, x)?;
    blocks.role(Role::layer(Part::Attention, i));
    let query = blocks.normed(layer.norm, &p.sub("q_norm"), layer.sizes.query_width(), query)?;
    let key = blocks.normed(layer.norm, &p.sub("k_norm"), layer.sizes.key_width(), key)?;
    llama::scored(blocks, p, i, layer, [query, key, value], inputs)
}
