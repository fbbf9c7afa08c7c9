//! gpt-oss (arXiv 2508.10925): attention with sinks, in every other layer with a window, and experts whose gates are
//! bounded.

use super::blocks::{Blocks, DecoderInputs, ExpertWeights, Mixture, Norm, Scores, Weighing};
use super::config::Fields;
use super::heads::decoder::Logits;
use super::layer_types::{LayerType, window};
use super::llama::{self, Layer};
use super::rope::{self, Rope};
use super::stack::{LABELS, Sizes, Stack, family};
use super::{Context, Family, Restated};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId, Weight};

pub(super) const FAMILY: Family = family(
    ("gpt_oss", "GptOss"),
    r#"{
        "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "hidden_act": "silu",
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "sliding_window": 128,
        "num_local_experts": 128, "num_experts_per_tok": 4, "attention_bias": true, "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "rope_theta": 150000.0,
        "rope_scaling": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
            "original_max_position_embeddings": 4096
        }
    }"#,
    LABELS,
    build,
    restated,
);

const ROPE: Rope = Rope::whole(150_000.0);

fn restated(fields: &Fields) -> Result<Restated> {
    rope::restated(fields, &ROPE)
}

/// The bounds of gates, and how steep they are.
#[derive(Clone, Copy)]
struct Gates {
    limit: f32,
    alpha: f32,
}

impl Gates {
    fn read(fields: &Fields) -> Result<Gates> {
        let number = |name: &str| -> Result<f32> {
            let value: f64 = fields.field(name)?;
            match value.is_finite() && value > 0.0 {
                true => Ok(value as f32),
                false => Err(Error::bad_input(format!("expected a positive number, found {value}"))
                    .at(format!("config.json: {name}"))),
            }
        };
        Ok(Gates { limit: number("swiglu_limit")?, alpha: number("swiglu_alpha")? })
    }

    /// `(up + 1) · gate · σ(α · gate)`, the gate at most the limit, and what it gates within it on either side.
    fn open(self, blocks: &mut Blocks, name: &str, both: ValueId) -> Result<ValueId> {
        let at = |part: &str| format!("{name}.{part}");
        let [gate, up] = blocks.split(&at("split"), both)?;
        let gate = blocks.at_most(&at("gate"), gate, self.limit)?;
        let up = blocks.at_most(&at("up.bounded"), up, self.limit)?;
        let up = blocks.at_least(&at("up"), up, -self.limit)?;
        let open = blocks.gated_steeply(&at("open"), gate, self.alpha)?;
        let one = blocks.number(&at("one"), 1.0)?;
        let up = blocks.add(&at("up.one"), up, one)?;
        blocks.mul(name, up, open)
    }
}

fn mixture(fields: &Fields, sizes: &Sizes) -> Result<Mixture> {
    let size = |field: &'static str| -> Result<Size> { Ok(Size { n: fields.field(field)?, field }) };
    let (experts, chosen) = (size("num_local_experts")?, size("num_experts_per_tok")?);
    Mixture { hidden: sizes.hidden(), inner: sizes.layer.sizes.inner, experts, chosen }.checked()
}

fn build(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let sizes = Sizes::read(fields, "hidden_act", "rms_norm_eps")?;
    let (mixture, gates) = (mixture(fields, &sizes)?, Gates::read(fields)?);
    let (bias, window): (bool, _) = (fields.field("attention_bias")?, window(fields, "sliding_window")?);
    let counted = |i: usize| if i.is_multiple_of(2) { LayerType::Sliding } else { LayerType::Full };
    let kinds = LayerType::of(fields, sizes.layers, counted)?;
    let mut stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let mut x = stack.words(sizes.hidden())?;
    for (i, kind) in kinds.into_iter().enumerate() {
        let (p, blocks, inputs) = (stack.model.item("layers", i), &mut stack.blocks, &stack.inputs);
        let plain = Layer::new(&sizes.layer, &rotation);
        let heads =
            Size { n: usize::try_from(sizes.layer.sizes.heads).unwrap_or_default(), field: "num_attention_heads" };
        let sinks = Some(blocks.weight(&p.sub("self_attn"), "sinks", &[heads])?);
        let window = window.filter(|_| kind == LayerType::Sliding);
        let scores = Scores { window, sinks, ..plain.scores };
        let layer = Layer { qkv_bias: bias, out_bias: bias, scores, ..plain };
        x = block(blocks, &p, i, (&layer, &mixture, gates), x, inputs)?;
    }
    x = llama::last_norm(&mut stack, "norm", &sizes, Norm::Rms(sizes.layer.sizes.epsilon), x)?;
    stack.finish(sizes.hidden(), Logits::Plain, x)
}

/// Norm, attention, residual; norm, experts, residual.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    (layer, mixture, gates): (&Layer, &Mixture, Gates),
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let hidden = layer.sizes.sizes.hidden;
    let normed = blocks.attention_norm(layer.norm, &p.sub("input_layernorm"), i, hidden, x)?;
    let attended = llama::attention(blocks, &p.sub("self_attn"), i, layer, normed, inputs)?;
    let x = blocks.add(&p.full("self_attn.residual"), x, attended)?;
    let normed = blocks.feed_forward_norm(layer.norm, &p.sub("post_attention_layernorm"), i, hidden, x)?;
    blocks.role(Role::layer(Part::Router, i));
    let (mlp, router) = (p.sub("mlp"), p.sub("mlp.router"));
    let scores = blocks.dense(&router, [hidden, mixture.experts], true, normed)?;
    let experts = mlp.sub("experts");
    let weights = Experts::read(&experts, mixture)?;
    let active = |blocks: &mut Blocks, both: ValueId| gates.open(blocks, &experts.full("gated"), both);
    let name = experts.full("mixture");
    let of = |expert: usize| weights.of(expert);
    let out = blocks.mixture((&name, i), mixture, (scores, Weighing::Chosen), normed, &of, &active)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}

/// The weights of all experts of a layer, one behind the other.
struct Experts {
    gate_up: Weight,
    gate_up_bias: Weight,
    down: Weight,
    down_bias: Weight,
    experts: usize,
    inner: usize,
}

impl Experts {
    fn read(p: &Scope, mixture: &Mixture) -> Result<Experts> {
        let Mixture { hidden, inner, experts, .. } = *mixture;
        let both = Size { n: inner.n.saturating_mul(2), ..inner };
        // One behind the other: what comes first has their number in it.
        let rows = |name: &str, shape: &[Size]| -> Result<Weight> {
            let weight = p.tensor(name, shape)?;
            match *weight.shape() {
                [experts, rows, columns] => weight.reshape(vec![experts.saturating_mul(rows), columns]),
                _ => weight.reshape(vec![weight.shape().iter().product()]),
            }
        };
        Ok(Experts {
            gate_up: rows("gate_up_proj", &[experts, hidden, both])?,
            gate_up_bias: rows("gate_up_proj_bias", &[experts, both])?,
            down: rows("down_proj", &[experts, inner, hidden])?,
            down_bias: rows("down_proj_bias", &[experts, hidden])?,
            experts: experts.n,
            inner: inner.n,
        })
    }

    /// Those of one, its gates before what they gate: in the file they alternate.
    fn of(&self, expert: usize) -> Result<ExpertWeights> {
        let one = |weight: &Weight| {
            let rows = weight.shape().first().copied().unwrap_or_default() / self.experts.max(1);
            weight.slice(0, expert * rows..(expert + 1) * rows)
        };
        let apart: Vec<usize> = (0..2).flat_map(|odd| (0..self.inner).map(move |j| 2 * j + odd)).collect();
        Ok(ExpertWeights {
            gate_up: one(&self.gate_up)?.take(1, apart.clone())?,
            gate_up_bias: Some(one(&self.gate_up_bias)?.take(0, apart)?),
            down: one(&self.down)?,
            down_bias: Some(one(&self.down_bias)?),
        })
    }
}
