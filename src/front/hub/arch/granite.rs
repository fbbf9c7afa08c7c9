//! Granite: Llama's layers with numbers by which word embeddings, scores, residuals and logits are multiplied.

use super::blocks::{Blocks, DecoderInputs};
use super::config::Fields;
use super::heads::decoder::Logits;
use super::llama::{self, Layer, ROPE, restated};
use super::stack::{LANGUAGE, Sizes, Stack, family};
use super::{Context, Family};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::Scope;
use crate::ir::{Graph, ValueId};

pub(super) const FAMILY: Family = family(
    ("granite", "Granite"),
    r#"{
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false, "embedding_multiplier": 1.0,
        "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0
    }"#,
    LANGUAGE,
    build,
    restated,
);

/// A number that something is multiplied by.
pub(super) fn multiplier(fields: &Fields, field: &str) -> Result<f32> {
    let number: f32 = fields.field(field)?;
    match number.is_finite() && number != 0.0 {
        true => Ok(number),
        false => Err(Error::bad_input(format!("expected a number other than 0, found {number}"))
            .at(format!("config.json: {field}"))),
    }
}

fn build(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let sizes = Sizes::read(fields, "hidden_act", "rms_norm_eps")?;
    let mut stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let plain = Layer::new(&sizes.layer, &rotation).with_biases(fields)?;
    let layer = Layer { scores: multiplier(fields, "attention_multiplier")?.into(), ..plain };
    let residual = multiplier(fields, "residual_multiplier")?;
    let words = stack.words(sizes.hidden())?;
    let mut x = stack.blocks.times("embed_tokens.scaled", multiplier(fields, "embedding_multiplier")?, words)?;
    for i in 0..sizes.layers {
        let p = stack.model.item("layers", i);
        x = block(&mut stack.blocks, &p, i, (&layer, residual), x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "norm", &sizes, layer.norm, x)?;
    stack.finish(sizes.hidden(), Logits::Times(multiplier(fields, "logits_scaling")?.recip()), x)
}

/// Norm, attention, residual; norm, gated feed-forward, residual; what is added to each residual times a number.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    (layer, residual): (&Layer, f32),
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, hidden, x)?;
    let attended = llama::attention(blocks, &p.sub("self_attn"), i, layer, normed, inputs)?;
    let attended = blocks.times(&p.full("self_attn.scaled"), residual, attended)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    let out = blocks.gated(&p.sub("mlp"), i, layer.sizes, layer.mlp_bias, normed)?;
    let out = blocks.times(&p.full("mlp.scaled"), residual, out)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}
