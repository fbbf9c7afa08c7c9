//! Phi-3 and Phi-4 (arXiv 2404.14219, 2412.08905): Llama's layers with fused projections. A part of each head may be turned,
//! and the window may be shorter than a text.

use super::blocks::{Blocks, DecoderInputs, Scores};
use super::config::Fields;
use super::layer_types::window;
use super::llama::{self, Layer};
use super::rope::{self, Rope};
use super::stack::{LABELS, Sizes, Stack, family};
use super::{Context, Family, Restated};
use crate::error::Result;
use crate::front::hub::checkpoint::Scope;
use crate::ir::{Graph, ValueId};

pub(super) const FAMILY: Family = family(
    ("phi3", "Phi3"),
    r#"{
        "pad_token_id": 32000,
        "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": false
    }"#,
    LABELS,
    build,
    restated,
);

/// Long texts have a list of factors, under two older names too.
const ROPE: Rope =
    Rope { renamed: &[("su", "longrope"), ("yarn", "longrope")], restarts: true, ..Rope::partial(10_000.0, 1.0) };

fn restated(fields: &Fields) -> Result<Restated> {
    rope::restated(fields, &ROPE)
}

fn build(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "rms_norm_eps")?;
    let stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let plain = Layer::new(&sizes.layer, &rotation);
    let scores = Scores { window: window(&context.config, "sliding_window")?, ..plain.scores };
    let layer = Layer { scores, ..plain };
    llama::layers_of(stack, &sizes, block, layer.norm, std::iter::repeat_n(&layer, sizes.layers))
}

/// Norm, attention, residual; norm, gated feed-forward, residual; both by fused projections.
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
    let attn = p.sub("self_attn");
    let qkv = blocks.fused_projections(&attn.sub("qkv_proj"), i, layer.sizes, false, normed)?;
    let attended = llama::scored(blocks, &attn, i, layer, qkv, inputs)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    let out = blocks.fused_gated(&p.sub("mlp"), i, layer.sizes, normed)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}
