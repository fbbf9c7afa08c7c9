//! Cohere's Command R: attention and feed-forward block read one norm without shift, the channels that turn together are
//! neighbours, and logits are multiplied by a number.

use super::blocks::{Blocks, DecoderInputs, Norm, SEPARATE};
use super::granite::multiplier;
use super::heads::decoder::Logits;
use super::llama::{self, Layer, ROPE, restated};
use super::stack::{LANGUAGE, Sizes, Stack, family};
use super::{Context, Family};
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId};

pub(super) const FAMILY: Family = family(
    ("cohere", "Cohere"),
    r#"{
        "pad_token_id": 0,
        "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
        "num_attention_heads": 64, "hidden_act": "silu", "max_position_embeddings": 8192, "layer_norm_eps": 1e-5,
        "tie_word_embeddings": true, "attention_bias": false, "use_qk_norm": false, "logit_scale": 0.0625
    }"#,
    LANGUAGE,
    build,
    restated,
);

fn build(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let sizes = Sizes::read(fields, "hidden_act", "layer_norm_eps")?;
    if ["rope_theta", "rope_parameters"].iter().all(|name| !fields.has(name)) {
        fields.warn(
            "config.json: without `rope_theta`, transformers 4 takes 10000, which is built, and version 5 takes 500000"
                .to_owned(),
        );
    }
    let (bias, norms_heads) = (fields.field("attention_bias")?, fields.field("use_qk_norm")?);
    let mut stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?.interleaved();
    let norm = Norm::LayerScale(sizes.layer.sizes.epsilon);
    let layer = Layer { norm, qkv_bias: bias, out_bias: bias, ..Layer::new(&sizes.layer, &rotation) };
    let mut x = stack.words(sizes.hidden())?;
    for i in 0..sizes.layers {
        let p = stack.model.item("layers", i);
        x = block(&mut stack.blocks, &p, i, (&layer, norms_heads), x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "norm", &sizes, norm, x)?;
    stack.finish(sizes.hidden(), Logits::Times(multiplier(fields, "logit_scale")?), x)
}

/// Norm; attention and gated feed-forward of it; the sum of both and the residual.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    (layer, norms_heads): (&Layer, bool),
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, layer.sizes.sizes.hidden, x)?;
    let attn = p.sub("self_attn");
    let attended = match norms_heads {
        true => normed_attention(blocks, &attn, i, layer, normed, inputs)?,
        false => llama::attention(blocks, &attn, i, layer, normed, inputs)?,
    };
    let out = blocks.gated(&p.sub("mlp"), i, layer.sizes, false, normed)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}

/// Attention whose heads of queries and keys are normed, each by weights of its own.
fn normed_attention(
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
    let size = Size { n: layer.sizes.head_size, field: "head_dim" };
    let heads = |n: i64, field| Size { n: usize::try_from(n).unwrap_or_default(), field };
    let epsilon = layer.sizes.sizes.epsilon;
    let queries = heads(layer.sizes.sizes.heads, "num_attention_heads");
    let query = blocks.heads_scaled_apart(epsilon, &p.sub("q_norm"), [queries, size], query)?;
    let keys = heads(layer.sizes.kv_heads, "num_key_value_heads");
    let key = blocks.heads_scaled_apart(epsilon, &p.sub("k_norm"), [keys, size], key)?;
    llama::scored(blocks, p, i, layer, [query, key, value], inputs)
}
