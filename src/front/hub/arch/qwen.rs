//! Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115), whose queries, keys and values have biases, and Qwen3 (arXiv 2505.09388),
//! whose heads of queries and keys are normed. Later layers may have a window.

use super::blocks::{Blocks, DecoderInputs, Norm, SEPARATE, Scores};
use super::config::Fields;
use super::heads::decoder::Logits;
use super::layer_types::{LayerType, window};
use super::llama::{self, Layer, ROPE, restated};
use super::stack::{ALL, Sizes, Stack, family};
use super::{Context, Family};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId};

pub(super) const QWEN2: Family = family(
    ("qwen2", "Qwen2"),
    r#"{
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_act": "silu", "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "use_sliding_window": false, "max_window_layers": 28
    }"#,
    ALL,
    build2,
    restated,
);

pub(super) const QWEN3: Family = family(
    ("qwen3", "Qwen3"),
    r#"{
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu",
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "attention_bias": false,
        "use_sliding_window": false, "max_window_layers": 28
    }"#,
    ALL,
    build3,
    restated,
);

/// Which layers have a window, and which.
fn windows(fields: &Fields, layers: usize) -> Result<Vec<Option<i64>>> {
    // The class has 4096 where the field is missing, and reads it only where windows are used.
    let used: bool = fields.field("use_sliding_window")?;
    let given = if fields.has("sliding_window") { window(fields, "sliding_window")? } else { Some(4096) };
    let window = given.filter(|_| used);
    let whole: usize = fields.field("max_window_layers")?;
    let counted = |i: usize| if window.is_some() && i >= whole { LayerType::Sliding } else { LayerType::Full };
    let of = |kind: LayerType| match (kind, window) {
        (LayerType::Full, _) => Ok(None),
        (LayerType::Sliding, Some(window)) => Ok(Some(window)),
        (LayerType::Sliding, None) => Err(Error::bad_input("layers of sliding_attention need a window")
            .at("config.json: layer_types, use_sliding_window, sliding_window")),
    };
    LayerType::of(fields, layers, counted)?.into_iter().map(of).collect()
}

fn build2(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "rms_norm_eps")?;
    let stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let layer = |window| {
        let plain = Layer::new(&sizes.layer, &rotation);
        Layer { qkv_bias: true, scores: Scores { window, ..plain.scores }, ..plain }
    };
    let layers: Vec<Layer> = windows(&context.config, sizes.layers)?.into_iter().map(layer).collect();
    llama::layers(stack, &sizes, &layers)
}

fn build3(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "rms_norm_eps")?;
    let mut stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let bias = context.config.field("attention_bias")?;
    let mut x = stack.words(sizes.hidden())?;
    for (i, window) in windows(&context.config, sizes.layers)?.into_iter().enumerate() {
        let plain = Layer::new(&sizes.layer, &rotation);
        let layer = Layer { qkv_bias: bias, out_bias: bias, scores: Scores { window, ..plain.scores }, ..plain };
        let p = stack.model.item("layers", i);
        x = block3(&mut stack.blocks, &p, i, &layer, x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "norm", &sizes, Norm::Rms(sizes.layer.sizes.epsilon), x)?;
    stack.finish(sizes.hidden(), Logits::Plain, x)
}

/// Llama's layer with normed heads.
fn block3(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, hidden, x)?;
    let attended = normed_attention(blocks, &p.sub("self_attn"), i, layer, normed, inputs)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    let out = blocks.gated(&p.sub("mlp"), i, layer.sizes, false, normed)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}

/// Attention whose heads of queries and keys are normed before they are turned.
pub(super) fn normed_attention(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let names = SEPARATE.qkv.map(|name| p.sub(name));
    let [query, key, value] = blocks.separate_projections(names.each_ref(), i, layer.sizes, layer.qkv_bias, x)?;
    let size = Size { n: layer.sizes.head_size, field: "head_dim" };
    blocks.role(Role::layer(Part::Attention, i));
    let query = blocks.normed_heads(layer.norm, &p.sub("q_norm"), layer.sizes.sizes.heads, size, query)?;
    let key = blocks.normed_heads(layer.norm, &p.sub("k_norm"), layer.sizes.kv_heads, size, key)?;
    llama::scored(blocks, p, i, layer, [query, key, value], inputs)
}
