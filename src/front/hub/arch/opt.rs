//! OPT (arXiv 2205.01068): learned positions, LayerNorm before each block or after it, and word embeddings that may be
//! narrower than the layers.

use super::blocks::{Activation, Blocks, DecoderInputs, DecoderLayer, EncoderLayer, heads};
use super::config::Fields;
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::decoder::Logits;
use super::stack::{Names, Sizes, Stack, layers};
use super::{Context, Decoder, Family};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId};
use crate::task::head::Head;

pub(super) const FAMILY: Family = Family {
    model_type: "opt",
    class: "OPT",
    classes: &[
        ("Model", Head::HiddenStates),
        ("ForCausalLM", Head::NextToken),
        ("ForSequenceClassification", Head::TextLogits),
        ("ForQuestionAnswering", Head::SpanLogits),
    ],
    prefix: "model",
    defaults: r#"{
        "pad_token_id": 1,
        "vocab_size": 50272, "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "activation_function": "relu", "max_position_embeddings": 2048, "word_embed_proj_dim": 768,
        "do_layer_norm_before": true, "enable_bias": true, "layer_norm_elementwise_affine": true,
        "_remove_final_layer_norm": false, "tie_word_embeddings": true
    }"#,
    renamed: &[],
    classifier: ClassifierOf::Tokens,
    shared: &[Shared::one("model.decoder.embed_tokens.weight", ["lm_head.weight", "lm_head.bias"])],
    restated: None,
    unread: &[],
    decoder: Some(&Decoder { buffers: &["decoder.version"], conv1d: &[] }),
    build,
};

/// The epsilon of PyTorch's norms.
const EPSILON: f32 = 1e-5;

/// The rows of the table of positions before that of the first.
const BEFORE: usize = 2;

/// A layer.
struct Layer {
    sizes: DecoderLayer,
    /// Whether projections have biases.
    bias: bool,
}

impl Layer {
    fn norm(&self, blocks: &mut Blocks, p: &Scope, x: ValueId) -> Result<ValueId> {
        blocks.layer_norm(p, self.sizes.sizes.hidden, EPSILON, x)
    }
}

fn sizes(fields: &Fields) -> Result<Sizes> {
    let size = |field: &'static str| -> Result<Size> { Ok(Size { n: fields.field(field)?, field }) };
    let (hidden, count): (Size, usize) = (size("hidden_size")?, fields.field("num_attention_heads")?);
    let heads = heads(count, hidden.n)?;
    let activation: Activation = fields.field("activation_function")?;
    let layer = EncoderLayer { hidden, inner: size("ffn_dim")?, heads, activation, epsilon: EPSILON };
    let head_size = hidden.n.checked_div(count).unwrap_or_default();
    let positions = fields.field("max_position_embeddings")?;
    let layer = DecoderLayer { sizes: layer, kv_heads: heads, head_size, positions };
    Ok(Sizes { vocabulary: size("vocab_size")?, layers: layers(fields.field("num_hidden_layers")?)?, layer })
}

fn build(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let sizes = sizes(fields)?;
    let width = Size { n: fields.field("word_embed_proj_dim")?, field: "word_embed_proj_dim" };
    let before: bool = fields.field("do_layer_norm_before")?;
    let bare_end: bool = fields.field("_remove_final_layer_norm")?;
    let layer = Layer { sizes: sizes.layer, bias: fields.field("enable_bias")? };
    if !fields.field::<bool>("layer_norm_elementwise_affine")? {
        return Err(Error::unsupported("norms without weights are not built, and transformers 4.57 cannot load them")
            .at("config.json: layer_norm_elementwise_affine"));
    }
    let names = Names { layers: "decoder.layers", words: "decoder.embed_tokens", projection: "lm_head" };
    let mut stack = Stack::named(context, &sizes, names, Blocks::decoder_inputs)?;
    let decoder = stack.model.sub("decoder");
    let narrow = width.n != sizes.hidden().n;

    let mut x = stack.words(width)?;
    if narrow {
        x = stack.blocks.dense(&decoder.sub("project_in"), [width, sizes.hidden()], false, x)?;
    }
    let places = decoder.sub("embed_positions");
    let rows = Size { n: sizes.layer.positions.saturating_add(BEFORE), field: "max_position_embeddings" };
    let places = stack.blocks.embed_after(&places, [rows, sizes.hidden()], BEFORE, stack.inputs.positions)?;
    x = stack.blocks.add("embeddings", x, places)?;
    let block = if before { block } else { post_norm_block };
    for i in 0..sizes.layers {
        x = block(&mut stack.blocks, &decoder.item("layers", i), i, &layer, x, &stack.inputs)?;
    }
    stack.blocks.role(Part::Head);
    if before && !bare_end {
        x = layer.norm(&mut stack.blocks, &decoder.sub("final_layer_norm"), x)?;
    }
    if narrow {
        x = stack.blocks.dense(&decoder.sub("project_out"), [sizes.hidden(), width], false, x)?;
    }
    stack.finish(width, Logits::Plain, x)
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
    blocks.role(Role::layer(Part::AttentionNorm, i));
    let normed = layer.norm(blocks, &p.sub("self_attn_layer_norm"), x)?;
    let attended = attention(blocks, p, i, layer, normed, inputs)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    blocks.role(Role::layer(Part::FeedForwardNorm, i));
    let normed = layer.norm(blocks, &p.sub("final_layer_norm"), x)?;
    let out = feed_forward(blocks, p, i, layer, normed)?;
    blocks.add(&p.full("fc.residual"), x, out)
}

/// Attention, residual, norm; feed-forward, residual, norm.
fn post_norm_block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let attended = attention(blocks, p, i, layer, x, inputs)?;
    blocks.role(Role::layer(Part::AttentionNorm, i));
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let x = layer.norm(blocks, &p.sub("self_attn_layer_norm"), x)?;
    let out = feed_forward(blocks, p, i, layer, x)?;
    blocks.role(Role::layer(Part::FeedForwardNorm, i));
    let x = blocks.add(&p.full("fc.residual"), x, out)?;
    layer.norm(blocks, &p.sub("final_layer_norm"), x)
}

fn attention(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let attn = p.sub("self_attn");
    let names = ["q_proj", "k_proj", "v_proj"].map(|name| attn.sub(name));
    let qkv = blocks.separate_projections(names.each_ref(), i, &layer.sizes, layer.bias, x)?;
    let scores = layer.sizes.usual_scale().into();
    let attended = blocks.attended(&attn, i, (&layer.sizes, scores), qkv, inputs)?;
    blocks.attention_output(&attn.sub("out_proj"), i, &layer.sizes, layer.bias, attended)
}

fn feed_forward(blocks: &mut Blocks, p: &Scope, i: usize, layer: &Layer, x: ValueId) -> Result<ValueId> {
    blocks.plain_feed_forward([&p.sub("fc1"), &p.sub("fc2")], i, &layer.sizes, layer.bias, x)
}
