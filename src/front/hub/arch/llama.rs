//! Llama, from 1 to 3.x (arXiv 2302.13971, 2407.21783): pre-norm layers, rotary positions, gated feed-forward blocks.

use super::blocks::{Blocks, DecoderInputs, DecoderLayer, Norm, Rotation, SEPARATE, Scores};
use super::config::Fields;
use super::heads::decoder::Logits;
use super::layer_types::LayerType;
use super::rope::{self, Rope};
use super::stack::{ALL, Sizes, Stack, family};
use super::{Context, Family, Restated};
use crate::error::Result;
use crate::front::hub::checkpoint::Scope;
use crate::ir::{Graph, ValueId};

pub(super) const FAMILY: Family = family(
    ("llama", "Llama"),
    r#"{
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false
    }"#,
    ALL,
    build,
    restated,
);

/// Of most families.
pub(super) const ROPE: Rope = Rope::whole(10_000.0);

pub(super) fn restated(fields: &Fields) -> Result<Restated> {
    rope::restated(fields, &ROPE)
}

/// A layer, and what families change in it.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub sizes: &'a DecoderLayer,
    pub norm: Norm,
    /// The rotation of queries and keys; none in layers without positions.
    pub rotation: Option<&'a Rotation>,
    pub scores: Scores,
    /// `[b, s, 1]`: what queries are multiplied by, token by token.
    pub query_factor: Option<ValueId>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the projection of the heads' outputs has one.
    pub out_bias: bool,
    /// Whether the feed-forward block has biases.
    pub mlp_bias: bool,
}

impl<'a> Layer<'a> {
    /// Without biases.
    pub fn new(sizes: &'a DecoderLayer, rotation: &'a Rotation) -> Layer<'a> {
        Layer {
            sizes,
            norm: Norm::Rms(sizes.sizes.epsilon),
            rotation: Some(rotation),
            scores: sizes.usual_scale().into(),
            query_factor: None,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
        }
    }

    /// With biases by the fields of Llama's configuration.
    pub fn with_biases(self, fields: &Fields) -> Result<Layer<'a>> {
        let (attention, mlp_bias): (bool, bool) = (fields.field("attention_bias")?, fields.field("mlp_bias")?);
        Ok(Layer { qkv_bias: attention, out_bias: attention, mlp_bias, ..self })
    }
}

fn build(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "rms_norm_eps")?;
    let stack = Stack::open(context, &sizes)?;
    let rotation = rotation(context, &ROPE, &sizes)?;
    let layer = Layer::new(&sizes.layer, &rotation).with_biases(&context.config)?;
    layers(stack, &sizes, std::iter::repeat_n(&layer, sizes.layers))
}

/// The rotation of all layers.
pub(super) fn rotation(context: &Context, rope: &Rope, sizes: &Sizes) -> Result<Rotation> {
    let layer = &sizes.layer;
    let angles = rope::angles(&context.config, rope, LayerType::Full, [layer.head_size, layer.positions])?;
    Ok(Rotation::new("rotary_emb", angles))
}

/// Words, these layers, and the last norm.
pub(super) fn layers<'l>(
    stack: Stack,
    sizes: &Sizes,
    layers: impl IntoIterator<Item = &'l Layer<'l>>,
) -> Result<Graph> {
    layers_of(stack, sizes, block, Norm::Rms(sizes.layer.sizes.epsilon), layers)
}

/// A family's own layer.
pub(super) type Block = fn(&mut Blocks, &Scope, usize, &Layer, ValueId, &DecoderInputs) -> Result<ValueId>;

/// The same with layers of the family's own, and another norm.
pub(super) fn layers_of<'l>(
    mut stack: Stack,
    sizes: &Sizes,
    block: Block,
    norm: Norm,
    layers: impl IntoIterator<Item = &'l Layer<'l>>,
) -> Result<Graph> {
    let mut x = stack.words(sizes.hidden())?;
    for (i, layer) in layers.into_iter().enumerate() {
        let p = stack.model.item("layers", i);
        x = block(&mut stack.blocks, &p, i, layer, x, &stack.inputs)?;
    }
    x = last_norm(&mut stack, "norm", sizes, norm, x)?;
    stack.finish(sizes.hidden(), Logits::Plain, x)
}

/// The norm after all layers. It is no part of the last one, which may go alone.
pub(super) fn last_norm(stack: &mut Stack, name: &str, sizes: &Sizes, norm: Norm, x: ValueId) -> Result<ValueId> {
    stack.blocks.role(crate::ir::Part::Head);
    stack.blocks.normed(norm, &stack.model.sub(name), sizes.hidden(), x)
}

/// Norm, attention, residual; norm, gated feed-forward, residual.
pub(super) fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, hidden, x)?;
    let attended = attention(blocks, &p.sub("self_attn"), i, layer, normed, inputs)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    let out = blocks.gated(&p.sub("mlp"), i, layer.sizes, layer.mlp_bias, normed)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}

/// Projections, rotation, scores, and the projection of the heads' outputs.
pub(super) fn attention(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let names = SEPARATE.qkv.map(|name| p.sub(name));
    let qkv = blocks.separate_projections(names.each_ref(), i, layer.sizes, layer.qkv_bias, x)?;
    scored(blocks, p, i, layer, qkv, inputs)
}

/// The same after the projections.
pub(super) fn scored(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    mut qkv: [ValueId; 3],
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    if let Some(rotation) = layer.rotation {
        qkv = blocks.rotated(p, i, (layer.sizes, rotation), qkv, inputs)?;
    }
    if let Some(factor) = layer.query_factor {
        let [query, key, value] = qkv;
        qkv = [blocks.mul(&p.full("query.larger"), query, factor)?, key, value];
    }
    let attended = blocks.attended(p, i, (layer.sizes, layer.scores), qkv, inputs)?;
    blocks.attention_output(&p.sub(SEPARATE.out), i, layer.sizes, layer.out_bias, attended)
}
