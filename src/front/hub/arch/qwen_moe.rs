//! Qwen3-MoE (arXiv 2505.09388): Qwen3's layers, whose feed-forward blocks are experts but for some layers.

use super::blocks::{Activation, Blocks, DecoderInputs, ExpertWeights, Mixture, Norm, Scores, Weighing};
use super::config::Fields;
use super::heads::decoder::Logits;
use super::layer_types::window;
use super::llama::{self, Layer, ROPE, restated};
use super::qwen::normed_attention;
use super::stack::{ALL, Sizes, Stack, family};
use super::{Context, Family};
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId, Weight};

pub(super) const FAMILY: Family = Family {
    renamed: &[("num_local_experts", "num_experts")],
    ..family(
        ("qwen3_moe", "Qwen3Moe"),
        r#"{
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
            "num_attention_heads": 32, "num_key_value_heads": 4, "hidden_act": "silu", "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "attention_bias": false, "use_sliding_window": false,
            "decoder_sparse_step": 1, "moe_intermediate_size": 768, "num_experts_per_tok": 8, "num_experts": 128,
            "norm_topk_prob": false, "mlp_only_layers": []
        }"#,
        ALL,
        build,
        restated,
    )
};

/// A layer, and its experts where it has some.
struct Sparse<'a> {
    layer: Layer<'a>,
    experts: Option<Mixture>,
    weighing: Weighing,
}

/// Which layers have experts.
fn sparse(fields: &Fields, layers: usize) -> Result<Vec<bool>> {
    let every: usize = fields.field("decoder_sparse_step")?;
    let dense = fields.field::<Option<Vec<usize>>>("mlp_only_layers")?.unwrap_or_default();
    Ok((0..layers).map(|i| !dense.contains(&i) && (i + 1).checked_rem(every) == Some(0)).collect())
}

fn mixture(fields: &Fields, sizes: &Sizes) -> Result<Mixture> {
    let size = |field: &'static str| -> Result<Size> { Ok(Size { n: fields.field(field)?, field }) };
    let (inner, experts, chosen) = (size("moe_intermediate_size")?, size("num_experts")?, size("num_experts_per_tok")?);
    Mixture { hidden: sizes.hidden(), inner, experts, chosen }.checked()
}

fn build(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let sizes = Sizes::read(fields, "hidden_act", "rms_norm_eps")?;
    let mut stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let bias: bool = fields.field("attention_bias")?;
    // The class has 4096 where the field is missing, and reads it only where windows are used.
    let given = if fields.has("sliding_window") { window(fields, "sliding_window")? } else { Some(4096) };
    let used: bool = fields.field("use_sliding_window")?;
    let window = given.filter(|_| used);
    let weighing = if fields.field("norm_topk_prob")? { Weighing::Chosen } else { Weighing::All };
    let sparse = sparse(fields, sizes.layers)?;
    let mixture = if sparse.contains(&true) { Some(mixture(fields, &sizes)?) } else { None };
    let mut x = stack.words(sizes.hidden())?;
    for (i, is_sparse) in sparse.into_iter().enumerate() {
        let plain = Layer::new(&sizes.layer, &rotation);
        let layer = Layer { qkv_bias: bias, out_bias: bias, scores: Scores { window, ..plain.scores }, ..plain };
        let of = Sparse { layer, experts: mixture.filter(|_| is_sparse), weighing };
        let p = stack.model.item("layers", i);
        x = block(&mut stack.blocks, &p, i, &of, x, &stack.inputs)?;
    }
    x = llama::last_norm(&mut stack, "norm", &sizes, Norm::Rms(sizes.layer.sizes.epsilon), x)?;
    stack.finish(sizes.hidden(), Logits::Plain, x)
}

/// Qwen3's layer with experts, or without.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    Sparse { layer, experts, weighing }: &Sparse,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, hidden, x)?;
    let attended = normed_attention(blocks, &p.sub("self_attn"), i, layer, normed, inputs)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    let mlp = p.sub("mlp");
    let out = match experts {
        None => blocks.gated(&mlp, i, layer.sizes, false, normed)?,
        Some(mixture) => chosen(blocks, &mlp, i, (mixture, *weighing, layer.sizes.sizes.activation), normed)?,
    };
    blocks.add(&p.full("mlp.residual"), x, out)
}

/// The experts that the router `gate` chooses.
fn chosen(
    blocks: &mut Blocks,
    mlp: &Scope,
    i: usize,
    (mixture, weighing, activation): (&Mixture, Weighing, Activation),
    x: ValueId,
) -> Result<ValueId> {
    let Mixture { hidden, inner, experts, .. } = *mixture;
    blocks.role(Role::layer(Part::Router, i));
    let scores = blocks.dense(&mlp.sub("gate"), [hidden, experts], false, x)?;
    let weights = |expert: usize| {
        let p = mlp.item("experts", expert);
        let [gate, up] = ["gate_proj", "up_proj"].map(|name| p.sub(name).tensor("weight", &[inner, hidden]));
        Ok(ExpertWeights {
            gate_up: Weight::concat(0, vec![gate?, up?])?.transpose()?,
            gate_up_bias: None,
            down: p.sub("down_proj").tensor("weight", &[hidden, inner])?.transpose()?,
            down_bias: None,
        })
    };
    let active = |blocks: &mut Blocks, both: ValueId| {
        let [gate, up] = blocks.split(&mlp.full("experts.split"), both)?;
        let open = blocks.activation(&mlp.full("experts.activation"), activation, gate)?;
        blocks.mul(&mlp.full("experts.gated"), open, up)
    };
    blocks.mixture((&mlp.full("experts.mixture"), i), mixture, (scores, weighing), x, &weights, &active)
}
