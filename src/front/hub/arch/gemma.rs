//! Gemma (arXiv 2403.08295): Llama's layers over scaled word embeddings, with norms whose scale is one plus a weight. Gemma 2
//! (arXiv 2408.00118) has norms after each block too, bounded scores and logits, and a window in every other layer; Gemma 3
//! (arXiv 2503.19786) norms heads instead, and has angles of their own in layers with a window.

use super::blocks::{Blocks, DecoderInputs, Norm, Rotation, Scores};
use super::config::Fields;
use super::heads::decoder::Logits;
use super::layer_types::{LayerType, window};
use super::llama::{self, Layer};
use super::qwen::normed_attention;
use super::rope::{self, Rope};
use super::stack::{LABELS, Sizes, Stack, family};
use super::{Context, Family, Restated};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::Scope;
use crate::ir::{Graph, ValueId};
use crate::task::head::Head;

pub(super) const GEMMA: Family = family(
    ("gemma", "Gemma"),
    r#"{
        "pad_token_id": 0,
        "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "attention_bias": false
    }"#,
    LABELS,
    build,
    llama::restated,
);

pub(super) const GEMMA2: Family = family(
    ("gemma2", "Gemma2"),
    r#"{
        "pad_token_id": 0,
        "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "attention_bias": false,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0
    }"#,
    LABELS,
    build2,
    llama::restated,
);

pub(super) const GEMMA3: Family = family(
    ("gemma3_text", "Gemma3"),
    r#"{
        "pad_token_id": 0,
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "attention_bias": false,
        "query_pre_attn_scalar": 256, "sliding_window": 4096
    }"#,
    &[
        ("TextModel", Head::HiddenStates),
        ("ForCausalLM", Head::NextToken),
        ("TextForSequenceClassification", Head::TextLogits),
    ],
    build3,
    restated3,
);

const ROPE3: Rope = Rope { local_theta: Some(10_000.0), ..Rope::whole(1_000_000.0) };

fn restated3(fields: &Fields) -> Result<Restated> {
    rope::restated(fields, &ROPE3)
}

/// Rows for tokens, times the root of their width.
fn words(stack: &mut Stack, sizes: &Sizes) -> Result<ValueId> {
    let words = stack.words(sizes.hidden())?;
    stack.blocks.times("embed_tokens.scaled", (sizes.hidden().n as f64).sqrt() as f32, words)
}

/// A layer of any Gemma, with biases by the configuration.
fn layer<'a>(fields: &Fields, plain: Layer<'a>) -> Result<Layer<'a>> {
    let bias: bool = fields.field("attention_bias")?;
    Ok(Layer { norm: norm(plain.sizes.sizes.epsilon), qkv_bias: bias, out_bias: bias, ..plain })
}

fn norm(epsilon: f32) -> Norm {
    Norm::RmsPlusOne(epsilon)
}

fn build(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "rms_norm_eps")?;
    if let Some(other) = context.config.field::<Option<String>>("hidden_activation")?
        && other != context.config.field::<String>("hidden_act")?
    {
        context.config.warn(format!(
            "config.json: `hidden_activation` {} is not read: transformers takes `hidden_act`",
            crate::error::printable(&other)
        ));
    }
    let mut stack = Stack::counting(context, &sizes)?;
    let rotation = llama::rotation(context, &llama::ROPE, &sizes)?;
    let layer = layer(&context.config, Layer::new(&sizes.layer, &rotation))?;
    let mut x = words(&mut stack, &sizes)?;
    for i in 0..sizes.layers {
        let p = stack.model.item("layers", i);
        x = llama::block(&mut stack.blocks, &p, i, &layer, x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "norm", &sizes, layer.norm, x)?;
    stack.finish(sizes.hidden(), Logits::Plain, x)
}

/// The factor of scores: one over the root of a number of the configuration.
fn scale(fields: &Fields) -> Result<f32> {
    let scalar: f64 = fields.field("query_pre_attn_scalar")?;
    match scalar.is_finite() && scalar > 0.0 {
        true => Ok(scalar.powf(-0.5) as f32),
        false => Err(Error::bad_input(format!("expected a positive number, found {scalar}"))
            .at("config.json: query_pre_attn_scalar")),
    }
}

/// A bound of scores or logits; none where it is null.
fn cap(fields: &Fields, field: &str) -> Result<Option<f32>> {
    match fields.field::<Option<f32>>(field)? {
        Some(cap) if !(cap.is_finite() && cap > 0.0) => {
            Err(Error::bad_input(format!("expected a positive number, found {cap}"))
                .at(format!("config.json: {field}")))
        }
        cap => Ok(cap),
    }
}

fn logits(fields: &Fields) -> Result<Logits> {
    Ok(cap(fields, "final_logit_softcapping")?.map_or(Logits::Plain, Logits::Capped))
}

/// The window of layers that have one.
fn needed_window(fields: &Fields) -> Result<i64> {
    window(fields, "sliding_window")?
        .ok_or_else(|| Error::bad_input("layers of sliding_attention need a window").at("config.json: sliding_window"))
}

fn build2(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let sizes = Sizes::read(fields, "hidden_activation", "rms_norm_eps")?;
    let mut stack = Stack::counting(context, &sizes)?;
    let rotation = llama::rotation(context, &llama::ROPE, &sizes)?;
    let plain = layer(fields, Layer::new(&sizes.layer, &rotation))?;
    let scores = Scores { soft_cap: cap(fields, "attn_logit_softcapping")?, ..scale(fields)?.into() };
    let counted = |i: usize| if i.is_multiple_of(2) { LayerType::Sliding } else { LayerType::Full };
    let mut x = words(&mut stack, &sizes)?;
    for (i, kind) in LayerType::of(fields, sizes.layers, counted)?.into_iter().enumerate() {
        let window = if kind == LayerType::Sliding { Some(needed_window(fields)?) } else { None };
        let layer = Layer { scores: Scores { window, ..scores }, ..plain };
        let p = stack.model.item("layers", i);
        x = block(&mut stack.blocks, &p, i, &layer, llama::attention, x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "norm", &sizes, plain.norm, x)?;
    stack.finish(sizes.hidden(), logits(fields)?, x)
}

fn build3(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let sizes = Sizes::read(fields, "hidden_activation", "rms_norm_eps")?;
    let bidirectional = fields.field::<Option<bool>>("use_bidirectional_attention")? == Some(true);
    if bidirectional && context.head.has_cache() {
        return Err(Error::unsupported("a model that attends to the tokens after generates no text")
            .at("config.json: use_bidirectional_attention")
            .hint("--task feature-extraction builds the model without a head"));
    }
    if cap(fields, "attn_logit_softcapping")?.is_some() {
        return Err(Error::unsupported("bounded scores are not built for this family")
            .at("config.json: attn_logit_softcapping"));
    }
    let mut stack = Stack::counting(context, &sizes)?;
    let rotation = |kind, name| -> Result<Rotation> {
        let angles = rope::angles(fields, &ROPE3, kind, [sizes.layer.head_size, sizes.layer.positions])?;
        Ok(Rotation::new(name, angles))
    };
    let whole = rotation(LayerType::Full, "rotary_emb")?;
    let local = rotation(LayerType::Sliding, "rotary_emb_local")?;
    let plain = layer(fields, Layer::new(&sizes.layer, &whole))?;
    let scores = Scores { bidirectional, ..scale(fields)?.into() };
    let every = match fields.field::<Option<usize>>("sliding_window_pattern")? {
        Some(every) => every,
        None => fields.field::<Option<usize>>("_sliding_window_pattern")?.unwrap_or(6),
    };
    let counted = |i: usize| match (i + 1).checked_rem(every) {
        Some(0) => LayerType::Full,
        _ => LayerType::Sliding,
    };
    let mut x = words(&mut stack, &sizes)?;
    for (i, kind) in LayerType::of(fields, sizes.layers, counted)?.into_iter().enumerate() {
        let layer = match kind {
            LayerType::Full => Layer { scores, ..plain },
            LayerType::Sliding => {
                let said = needed_window(fields)?;
                // EmbeddingGemma's window is the width of both sides together; its class halves it.
                let window = Some(if bidirectional { said / 2 + 1 } else { said });
                Layer { rotation: Some(&local), scores: Scores { window, ..scores }, ..plain }
            }
        };
        let p = stack.model.item("layers", i);
        x = block(&mut stack.blocks, &p, i, &layer, normed_attention, x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "norm", &sizes, plain.norm, x)?;
    stack.finish(sizes.hidden(), logits(fields)?, x)
}

/// Attention of a layer, by its path and number.
type Attention = fn(&mut Blocks, &Scope, usize, &Layer, ValueId, &DecoderInputs) -> Result<ValueId>;

/// Norm, attention, norm, residual; norm, gated feed-forward, norm, residual.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    attention: Attention,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, hidden, x)?;
    let attended = attention(blocks, &p.sub("self_attn"), i, layer, normed, inputs)?;
    let attended = blocks.attention_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, attended)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("pre_feedforward_layernorm"), i, hidden, x)?;
    let out = blocks.gated(&p.sub("mlp"), i, layer.sizes, false, normed)?;
    let out = blocks.feed_forward_norm(layer.norm, &p.sub("post_feedforward_layernorm"), i, hidden, out)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}
