//! BLOOM (arXiv 2211.05100): normed word embeddings, and no positions but a bias of the scores that grows with distance.

use super::blocks::{Activation, Blocks, DecoderInputs, DecoderLayer, EncoderLayer, Norm, Scores, heads};
use super::config::epsilon_of;
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::decoder::Logits;
use super::llama;
use super::stack::{ALL, LONGEST, Names, Sizes, Stack, layers};
use super::{Context, Decoder, Family};
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, ValueId};

pub(super) const FAMILY: Family = Family {
    model_type: "bloom",
    class: "Bloom",
    classes: ALL,
    prefix: "transformer",
    defaults: r#"{
        "vocab_size": 250880, "hidden_size": 64, "n_layer": 2, "n_head": 8, "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": true, "apply_residual_connection_post_layernorm": false
    }"#,
    renamed: &[("n_embed", "hidden_size"), ("num_hidden_layers", "n_layer"), ("num_attention_heads", "n_head")],
    classifier: ClassifierOf::Tokens,
    shared: &[Shared::one("transformer.word_embeddings.weight", ["lm_head.weight", "lm_head.bias"])],
    restated: None,
    unread: &[],
    decoder: Some(&Decoder { buffers: &[], conv1d: &[] }),
    build,
};

/// A layer, and whether its residuals are normed.
struct Layer {
    sizes: DecoderLayer,
    norm: Norm,
    scores: Scores,
    normed_residual: bool,
}

fn build(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let hidden = Size { n: fields.field("hidden_size")?, field: "hidden_size" };
    let count: usize = fields.field("n_head")?;
    let heads = heads(count, hidden.n)?;
    let epsilon = epsilon_of("layer_norm_epsilon", fields.field("layer_norm_epsilon")?)?;
    let inner = Size { n: hidden.n.saturating_mul(4), ..hidden };
    let sizes = EncoderLayer { hidden, inner, heads, activation: Activation::GeluNew, epsilon };
    // No table bounds the length of a text.
    let head_size = hidden.n.checked_div(count).unwrap_or_default();
    let layer = DecoderLayer { sizes, kv_heads: heads, head_size, positions: LONGEST };
    let vocabulary = Size { n: fields.field("vocab_size")?, field: "vocab_size" };
    let sizes = Sizes { vocabulary, layers: layers(fields.field("n_layer")?)?, layer };

    let names = Names { layers: "h", words: "word_embeddings", projection: "lm_head" };
    let mut stack = Stack::named(context, &sizes, names, Blocks::counting_decoder_inputs)?;
    let norm = Norm::Layer(epsilon);
    let words = stack.words(hidden)?;
    let mut x = stack.blocks.normed(norm, &stack.model.sub("word_embeddings_layernorm"), hidden, words)?;
    let bias = Some(stack.blocks.linear_biases(count, &stack.inputs)?);
    let layer = Layer {
        sizes: layer,
        norm,
        scores: Scores { bias, ..layer.usual_scale().into() },
        normed_residual: fields.field("apply_residual_connection_post_layernorm")?,
    };
    for i in 0..sizes.layers {
        x = block(&mut stack.blocks, &stack.model.item("h", i), i, &layer, x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "ln_f", &sizes, norm, x)?;
    stack.finish(hidden, Logits::Plain, x)
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
    let residual = |x: ValueId, normed: ValueId| if layer.normed_residual { normed } else { x };
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, hidden, x)?;
    let attn = p.sub("self_attention");
    let qkv = blocks.projections_by_head(&attn.sub("query_key_value"), i, &layer.sizes, true, normed)?;
    let attended = blocks.attended(&attn, i, (&layer.sizes, layer.scores), qkv, inputs)?;
    let attended = blocks.attention_output(&attn.sub("dense"), i, &layer.sizes, true, attended)?;
    let x = blocks.add(&p.full("self_attention.residual"), residual(x, normed), attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    let names = ["dense_h_to_4h", "dense_4h_to_h"].map(|name| p.sub("mlp").sub(name));
    let out = blocks.plain_feed_forward(names.each_ref(), i, &layer.sizes, true, normed)?;
    blocks.add(&p.full("mlp.residual"), residual(x, normed), out)
}
