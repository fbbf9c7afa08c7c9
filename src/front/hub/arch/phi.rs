//! Phi, Phi-1.5 and Phi-2 (arXiv 2306.11644): attention and feed-forward block read one norm, a part of each head is turned, and
//! every projection has a bias.

use super::blocks::{Blocks, DecoderInputs, Norm};
use super::config::Fields;
use super::heads::decoder::Logits;
use super::llama::{self, Layer};
use super::rope::{self, Rope};
use super::stack::{LABELS, Sizes, Stack, family};
use super::{Context, Family, Restated};
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId};
use crate::task::head::Head;

pub(super) const FAMILY: Family = family(
    ("phi", "Phi"),
    r#"{
        "vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
        "num_attention_heads": 32, "hidden_act": "gelu_new", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
        "tie_word_embeddings": false, "qk_layernorm": false
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
    let sizes = Sizes::read(&context.config, "hidden_act", "layer_norm_eps")?;
    let norms_heads = context.config.field("qk_layernorm")?;
    let mut stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let norm = Norm::Layer(sizes.layer.sizes.epsilon);
    let layer = Layer { norm, qkv_bias: true, out_bias: true, ..Layer::new(&sizes.layer, &rotation) };
    let mut x = stack.words(sizes.hidden())?;
    for i in 0..sizes.layers {
        let p = stack.model.item("layers", i);
        x = block(&mut stack.blocks, &p, i, (&layer, norms_heads), x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "final_layernorm", &sizes, norm, x)?;
    if context.head == Head::NextToken {
        // The projection of this family has one, and a family's head may have none.
        context.weights.sub("lm_head").tensor("bias", &[sizes.vocabulary])?;
    }
    stack.finish(sizes.hidden(), Logits::Plain, x)
}

/// Norm; attention and feed-forward of it; the sum of both and the residual.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    (layer, norms_heads): (&Layer, bool),
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, hidden, x)?;
    let attended = attention(blocks, &p.sub("self_attn"), i, (layer, norms_heads), normed, inputs)?;
    let mlp = p.sub("mlp");
    let out = blocks.plain_feed_forward([&mlp.sub("fc1"), &mlp.sub("fc2")], i, layer.sizes, true, normed)?;
    let both = blocks.add(&p.full("parallel"), attended, out)?;
    blocks.add(&p.full("residual"), both, x)
}

fn attention(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    (layer, norms_heads): (&Layer, bool),
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let names = ["q_proj", "k_proj", "v_proj"].map(|name| p.sub(name));
    let [mut query, mut key, value] = blocks.separate_projections(names.each_ref(), i, layer.sizes, true, x)?;
    if norms_heads {
        blocks.role(Role::layer(Part::Attention, i));
        let size = Size { n: layer.sizes.head_size, field: "head_dim" };
        query = blocks.normed_heads(layer.norm, &p.sub("q_layernorm"), layer.sizes.sizes.heads, size, query)?;
        key = blocks.normed_heads(layer.norm, &p.sub("k_layernorm"), layer.sizes.kv_heads, size, key)?;
    }
    let mut qkv = [query, key, value];
    if let Some(rotation) = layer.rotation {
        qkv = blocks.rotated(p, i, (layer.sizes, rotation), qkv, inputs)?;
    }
    let attended = blocks.attended(p, i, (layer.sizes, layer.scores), qkv, inputs)?;
    blocks.attention_output(&p.sub("dense"), i, layer.sizes, true, attended)
}
