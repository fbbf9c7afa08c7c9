//! GPT-2 (Radford et al., 2019): a decoder with pre-norm layers and learned positions.

use serde::Deserialize;

use super::blocks::{
    Activation, Blocks, DecoderInputs, DecoderLayer, EncoderLayer, Memory, attention_scale, heads as heads_of,
};
use super::config::epsilon_of;
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::decoder::{self, DecoderHeads};
use super::{Context, Decoder, Family};
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId};
use crate::task::head::Head;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt2",
    class: "GPT2",
    classes: &[
        ("Model", Head::HiddenStates),
        ("LMHeadModel", Head::NextToken),
        // The language model with a head that compares choices, which is left out and named.
        ("DoubleHeadsModel", Head::NextToken),
        ("ForSequenceClassification", Head::TextLogits),
        ("ForTokenClassification", Head::TokenLogits),
        ("ForQuestionAnswering", Head::SpanLogits),
    ],
    prefix: "transformer",
    defaults: r#"{
        "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": null,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": true,
        "scale_attn_by_inverse_layer_idx": false
    }"#,
    renamed: RENAMED,
    classifier: ClassifierOf::Tokens,
    shared: &[Shared::one("transformer.wte.weight", ["lm_head.weight", "lm_head.bias"])],
    restated: None,
    unread: &[],
    decoder: Some(&Decoder { buffers: BUFFERS, conv1d: CONV1D }),
    build,
};

/// Names of every configuration, and those of GPT's.
pub(super) const RENAMED: &[(&str, &str)] = &[
    ("hidden_size", "n_embd"),
    ("max_position_embeddings", "n_positions"),
    ("num_attention_heads", "n_head"),
    ("num_hidden_layers", "n_layer"),
];

/// The causal mask and what it hides keys by.
pub(super) const BUFFERS: &[&str] = &[".attn.bias", ".attn.masked_bias"];

pub(super) const CONV1D: &[&str] =
    &[".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight", ".mlp.c_proj.weight"];

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    activation_function: Activation,
    layer_norm_epsilon: f32,
    scale_attn_weights: bool,
    scale_attn_by_inverse_layer_idx: bool,
}

fn build(context: &Context) -> Result<Graph> {
    let config: Config = context.config.get()?;
    let hidden = Size { n: config.n_embd, field: "n_embd" };
    let inner = match config.n_inner {
        Some(n) => Size { n, field: "n_inner" },
        None => Size { n: hidden.n.saturating_mul(4), ..hidden },
    };
    let sizes = EncoderLayer {
        hidden,
        inner,
        heads: heads_of(config.n_head, config.n_embd)?,
        activation: config.activation_function,
        epsilon: epsilon_of("layer_norm_epsilon", config.layer_norm_epsilon)?,
    };
    let layer = gpt_layer(sizes, config.n_positions);
    let vocabulary = Size { n: config.vocab_size, field: "vocab_size" };
    let mut blocks = Blocks::new("gpt2");
    let transformer = context.weights.sub("transformer");
    let layers = vec![Memory::Attention; known_layers(&transformer, config.n_layer)];
    let inputs = blocks.decoder_inputs(context.head, &layers, &layer)?;

    let (tokens, places) = (transformer.sub("wte"), transformer.sub("wpe"));
    let mut x = embeddings(&mut blocks, [&tokens, &places], [vocabulary, hidden], &layer, &inputs)?;
    for i in 0..config.n_layer {
        let p = transformer.item("h", i);
        let mut scale = if config.scale_attn_weights { attention_scale(hidden, sizes.heads, 1) } else { 1.0 };
        if config.scale_attn_by_inverse_layer_idx {
            scale /= (i + 1) as f32;
        }
        x = block(&mut blocks, &p, i, (&layer, scale), x, &inputs)?;
    }
    // No part of the last layer, which may go alone.
    blocks.role(Part::Head);
    x = blocks.layer_norm(&transformer.sub("ln_f"), hidden, sizes.epsilon, x)?;

    let projection = context.weights.sub("lm_head");
    decoder::build(&mut blocks, context, &DecoderHeads { hidden, vocabulary, projection, tied: tokens }, x, &inputs)?;
    Ok(blocks.finish())
}

/// The layer of a GPT, whose heads have keys and values of their own.
pub(super) fn gpt_layer(sizes: EncoderLayer, positions: usize) -> DecoderLayer {
    let heads = usize::try_from(sizes.heads).unwrap_or(1);
    let head_size = sizes.hidden.n.checked_div(heads).unwrap_or_default();
    DecoderLayer { sizes, kv_heads: sizes.heads, head_size, positions }
}

/// How many layers there are, at most as many as the configuration says: a cache is made for no others.
pub(super) fn known_layers(transformer: &Scope, said: usize) -> usize {
    (0..said).take_while(|i| transformer.item("h", *i).has("ln_1.weight")).count()
}

/// Rows for tokens and for their positions, added.
pub(super) fn embeddings(
    blocks: &mut Blocks,
    [tokens, places]: [&Scope; 2],
    [vocabulary, hidden]: [Size; 2],
    layer: &DecoderLayer,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    blocks.role(Part::Embedding);
    let words = blocks.words(tokens, [vocabulary, hidden], inputs.ids)?;
    let positions = Size { n: layer.positions, field: "n_positions" };
    let places = blocks.embed(places, [positions, hidden], inputs.positions)?;
    blocks.add("embeddings", words, places)
}

/// The names of attention below a layer: as a whole, its fused projection and that of its heads' outputs.
pub(super) fn attention<'a>(p: &Scope<'a>) -> [Scope<'a>; 3] {
    let attn = p.sub("attn");
    [attn.clone(), attn.sub("c_attn"), attn.sub("c_proj")]
}

/// Norm, attention, residual; norm, feed-forward, residual.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    (layer, scale): (&DecoderLayer, f32),
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let EncoderLayer { hidden, epsilon, .. } = layer.sizes;
    blocks.role(Role::layer(Part::AttentionNorm, i));
    let normed = blocks.layer_norm(&p.sub("ln_1"), hidden, epsilon, x)?;
    let names = attention(p);
    let attended = blocks.fused_causal_attention(names.each_ref(), i, (layer, scale), normed, inputs)?;
    let x = blocks.add(&p.full("attn.residual"), x, attended)?;
    blocks.role(Role::layer(Part::FeedForwardNorm, i));
    let normed = blocks.layer_norm(&p.sub("ln_2"), hidden, epsilon, x)?;
    let mlp = p.sub("mlp");
    let out = blocks.feed_forward([&mlp.sub("c_fc"), &mlp.sub("c_proj")], i, &layer.sizes, normed)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}
