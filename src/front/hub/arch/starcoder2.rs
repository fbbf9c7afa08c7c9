//! StarCoder2 (arXiv 2402.19173): grouped attention in a window, LayerNorm, plain feed-forward blocks, biases everywhere.

use super::blocks::{Blocks, DecoderInputs, Norm, Scores};
use super::layer_types::window;
use super::llama::{self, Layer, ROPE, restated};
use super::stack::{LABELS, Sizes, Stack, family};
use super::{Context, Family};
use crate::error::Result;
use crate::front::hub::checkpoint::Scope;
use crate::ir::{Graph, ValueId};

pub(super) const FAMILY: Family = family(
    ("starcoder2", "Starcoder2"),
    r#"{
        "vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30,
        "num_attention_heads": 24, "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 4096, "norm_epsilon": 1e-5, "tie_word_embeddings": true, "use_bias": true
    }"#,
    LABELS,
    build,
    restated,
);

fn build(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "norm_epsilon")?;
    let bias = context.config.field("use_bias")?;
    let stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let plain = Layer::new(&sizes.layer, &rotation);
    let layer = Layer {
        norm: Norm::Layer(sizes.layer.sizes.epsilon),
        scores: Scores { window: window(&context.config, "sliding_window")?, ..plain.scores },
        qkv_bias: bias,
        out_bias: bias,
        mlp_bias: bias,
        ..plain
    };
    llama::layers_of(stack, &sizes, block, layer.norm, std::iter::repeat_n(&layer, sizes.layers))
}

/// Norm, attention, residual; norm, feed-forward, residual.
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
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    let names = ["c_fc", "c_proj"].map(|name| p.sub("mlp").sub(name));
    let out = blocks.plain_feed_forward(names.each_ref(), i, layer.sizes, layer.mlp_bias, normed)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}
