//! Mixtures of experts (arXiv 1701.06538): each token goes through the feed-forward blocks that its router chooses, and
//! no other is computed.

use super::Blocks;
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::Size;
use crate::ir::{Dim, Op, Part, Role, ValueId, Weight};

/// The sizes of a mixture.
#[derive(Clone, Copy, Debug)]
pub struct Mixture {
    /// Width of the residual stream.
    pub hidden: Size,
    /// Width of an expert.
    pub inner: Size,
    /// How many experts there are.
    pub experts: Size,
    /// How many a token chooses.
    pub chosen: Size,
}

/// What the share of a chosen expert follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighing {
    /// The softmax of the scores of the chosen ones.
    Chosen,
    /// The softmax of all scores.
    All,
}

/// The weights of an expert, `[inputs, outputs]`.
pub struct ExpertWeights {
    /// To gates and then what they gate, `[hidden, 2 · inner]`.
    pub gate_up: Weight,
    /// `[2 · inner]`
    pub gate_up_bias: Option<Weight>,
    /// Back, `[inner, hidden]`.
    pub down: Weight,
    /// `[hidden]`
    pub down_bias: Option<Weight>,
}

/// Most experts of a layer; each is some nodes of the graph.
const EXPERTS: usize = 1 << 10;

impl Mixture {
    /// Fails where a token cannot choose as many experts as there should be.
    pub fn checked(self) -> Result<Mixture> {
        let Mixture { experts, chosen, .. } = self;
        if !(1..=EXPERTS).contains(&experts.n) {
            return Err(Error::unsupported(format!("expected 1 to {EXPERTS} experts, found {}", experts.n))
                .at(format!("config.json: {}", experts.field)));
        }
        if chosen.n == 0 || chosen.n > experts.n {
            return Err(Error::bad_input(format!("a token cannot choose {} of {} experts", chosen.n, experts.n))
                .at(format!("config.json: {}", chosen.field)));
        }
        Ok(self)
    }
}

impl Blocks {
    /// `Σ share · expert(x)` over the experts that the scores `[b, s, experts]` of a token choose. `weights` has those
    /// of each expert, and `active` makes `[n, inner]` of gates and what they gate, `[n, 2 · inner]`.
    pub fn mixture(
        &mut self,
        (name, i): (&str, usize),
        mixture: &Mixture,
        (scores, weighing): (ValueId, Weighing),
        x: ValueId,
        weights: &dyn Fn(usize) -> Result<ExpertWeights>,
        active: &dyn Fn(&mut Blocks, ValueId) -> Result<ValueId>,
    ) -> Result<ValueId> {
        let at = |part: &str| format!("{name}.{part}");
        let (shares, chosen) = self.chosen((name, i), mixture, scores, weighing)?;
        let experts = mixture.experts.n;
        let dispatch = Op::Dispatch { experts: experts as i64 };
        let made = self.builder.nodes(&at("dispatch"), dispatch, &[Some(x), Some(chosen)])?;
        let &[rows, counts, places] = made.as_slice() else { return Err(Error::bug("a dispatch has three outputs")) };
        let all: Vec<ExpertWeights> = (0..experts).map(weights).collect::<Result<_>>()?;

        let ins = all.iter().map(|of| (&of.gate_up, &of.gate_up_bias)).collect::<Vec<_>>();
        let both = self.by_expert(&at("gate_up_proj"), Role::layer(Part::ExpertIn, i), (rows, counts), &ins)?;
        self.role(Role::layer(Part::Activation, i));
        let inner = active(self, both)?;
        let outs = all.iter().map(|of| (&of.down, &of.down_bias)).collect::<Vec<_>>();
        let out = self.by_expert(&at("down_proj"), Role::layer(Part::ExpertOut, i), (inner, counts), &outs)?;

        self.role(Role::layer(Part::Router, i));
        let each = self.builder.node(&at("each"), Op::Gather { axis: 0 }, &[out, places])?;
        let shares = self.builder.node(&at("shares.column"), Op::Unsqueeze { axes: vec![3] }, &[shares])?;
        let weighed = self.mul(&at("weighed"), each, shares)?;
        self.builder.node(name, Op::ReduceSum { axes: vec![2], keep: false }, &[weighed])
    }

    /// The shares of the experts that tokens choose and their numbers, `[b, s, k]` each.
    fn chosen(
        &mut self,
        (name, i): (&str, usize),
        mixture: &Mixture,
        mut scores: ValueId,
        weighing: Weighing,
    ) -> Result<(ValueId, ValueId)> {
        let at = |part: &str| format!("{name}.{part}");
        self.role(Role::layer(Part::Router, i));
        if weighing == Weighing::All {
            scores = self.builder.node(&at("softmax"), Op::Softmax { axis: -1 }, &[scores])?;
        }
        let count = self.constant(&at("count"), Weight::i64s(vec![1], &[mixture.chosen.n as i64])?);
        let largest = Op::TopK { length: mixture.chosen.n.into(), largest: true };
        let made = self.builder.nodes(&at("chosen"), largest, &[Some(scores), Some(count)])?;
        let &[best, chosen] = made.as_slice() else { return Err(Error::bug("a choice has two outputs")) };
        match weighing {
            Weighing::All => Ok((best, chosen)),
            Weighing::Chosen => Ok((self.builder.node(&at("shares"), Op::Softmax { axis: -1 }, &[best])?, chosen)),
        }
    }

    /// Each expert's rows times its weight.
    fn by_expert(
        &mut self,
        name: &str,
        role: Role,
        (rows, counts): (ValueId, ValueId),
        weights: &[(&Weight, &Option<Weight>)],
    ) -> Result<ValueId> {
        self.role(role);
        let all = self.builder.ty(rows).shape.first().cloned().ok_or_else(|| Error::bug("rows are counted"))?;
        let lengths = (0..weights.len()).map(|expert| Dim::fresh(&format!("{name}.{expert}"))).collect();
        let split = Op::SplitTo { axis: 0, lengths };
        let parts = self.builder.nodes(&format!("{name}.rows"), split, &[Some(rows), Some(counts)])?;
        let mut products = Vec::with_capacity(parts.len());
        for (expert, (part, (weight, bias))) in parts.into_iter().zip(weights).enumerate() {
            let at = format!("{name}.{expert}");
            let bias = bias.as_ref().map(|bias| self.constant(&format!("{at}.bias"), bias.clone()));
            products.push(self.multiply(&at, &format!("{at}.weight"), (*weight).clone(), bias, part)?);
        }
        self.builder.node(name, Op::Join { length: all }, &products)
    }

    /// `min(x, most)`, element by element.
    pub fn at_most(&mut self, name: &str, x: ValueId, most: f32) -> Result<ValueId> {
        let at = |part: &str| format!("{name}.{part}");
        let (minus, least) = (self.number("minus", -1.0)?, self.number(&at("most"), -most)?);
        let x = self.mul(&at("opposite"), x, minus)?;
        let x = self.builder.node(&at("bounded"), Op::Max, &[x, least])?;
        self.mul(name, x, minus)
    }

    /// `max(x, least)`, element by element.
    pub fn at_least(&mut self, name: &str, x: ValueId, least: f32) -> Result<ValueId> {
        let least = self.number(&format!("{name}.least"), least)?;
        self.builder.node(name, Op::Max, &[x, least])
    }
}
