//! GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373): attention and feed-forward block read norms of their own, side by side or
//! one after the other; a part of each head is turned; queries, keys and values are one projection, head by head.

use super::blocks::{Blocks, DecoderInputs, Norm};
use super::config::Fields;
use super::family::Shared;
use super::heads::decoder::Logits;
use super::llama::{self, Layer};
use super::rope::{self, Rope};
use super::stack::{ALL, Names, Sizes, Stack, family};
use super::{Context, Decoder, Family, Restated};
use crate::error::Result;
use crate::front::hub::checkpoint::Scope;
use crate::ir::{Graph, ValueId};

pub(super) const FAMILY: Family = Family {
    prefix: "gpt_neox",
    shared: &[Shared::one("gpt_neox.embed_in.weight", ["embed_out.weight", "embed_out.bias"])],
    decoder: Some(&Decoder {
        // The causal mask, what it hides keys by, and frequencies.
        buffers: &[".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"],
        conv1d: &[],
    }),
    ..family(
        ("gpt_neox", "GPTNeoX"),
        r#"{
            "vocab_size": 50432, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44,
            "num_attention_heads": 64, "hidden_act": "gelu", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
            "tie_word_embeddings": false, "use_parallel_residual": true, "attention_bias": true
        }"#,
        ALL,
        build,
        restated,
    )
};

const ROPE: Rope = Rope::partial(10_000.0, 0.25);

fn restated(fields: &Fields) -> Result<Restated> {
    rope::restated(fields, &ROPE)
}

fn build(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "layer_norm_eps")?;
    let parallel: bool = context.config.field("use_parallel_residual")?;
    let bias = context.config.field("attention_bias")?;
    let names = Names { layers: "layers", words: "embed_in", projection: "embed_out" };
    let mut stack = Stack::named(context, &sizes, names, Blocks::decoder_inputs)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let norm = Norm::Layer(sizes.layer.sizes.epsilon);
    let layer = Layer { norm, qkv_bias: bias, out_bias: bias, ..Layer::new(&sizes.layer, &rotation) };
    let mut x = stack.words(sizes.hidden())?;
    for i in 0..sizes.layers {
        let p = stack.model.item("layers", i);
        let block = if parallel { parallel_block } else { block };
        x = block(&mut stack.blocks, &p, i, &layer, x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "final_layer_norm", &sizes, norm, x)?;
    stack.finish(sizes.hidden(), Logits::Plain, x)
}

/// Norm and attention, norm and feed-forward, both of the layer's input; the sum of both and the residual.
fn parallel_block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let attended = attention(blocks, p, i, layer, x, inputs)?;
    let out = feed_forward(blocks, p, i, layer, x)?;
    let both = blocks.add(&p.full("parallel"), out, attended)?;
    blocks.add(&p.full("residual"), both, x)
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
    let attended = attention(blocks, p, i, layer, x, inputs)?;
    let x = blocks.add(&p.full("attention.residual"), x, attended)?;
    let out = feed_forward(blocks, p, i, layer, x)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}

/// The norm before attention, and attention.
fn attention(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, layer.sizes.sizes.hidden, x)?;
    let attn = p.sub("attention");
    let mut qkv = blocks.projections_by_head(&attn.sub("query_key_value"), i, layer.sizes, layer.qkv_bias, normed)?;
    if let Some(rotation) = layer.rotation {
        qkv = blocks.rotated(&attn, i, (layer.sizes, rotation), qkv, inputs)?;
    }
    let attended = blocks.attended(&attn, i, (layer.sizes, layer.scores), qkv, inputs)?;
    blocks.attention_output(&attn.sub("dense"), i, layer.sizes, layer.out_bias, attended)
}

/// The norm before the feed-forward block, and the block.
fn feed_forward(blocks: &mut Blocks, p: &Scope, i: usize, layer: &Layer, x: ValueId) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    let names = ["dense_h_to_4h", "dense_4h_to_h"].map(|name| p.sub("mlp").sub(name));
    blocks.plain_feed_forward(names.each_ref(), i, layer.sizes, true, normed)
}
