//! Neurons of one size side by side.
//!
//! `Linear(g(Linear(x, [A|B])), [C; D]) = Linear(g(Linear(x, A)), C) + Linear(g(Linear(x, B)), D)`
//!
//! Behind the non-linearity no factor can even out the channels ([`super::Smooth`]), but neurons can change places.
//! The few that fire far beyond the rest go apart and stay in full precision: they are a sliver of the work. What
//! remains is cut by size, and every group has a range of its own. The parts add up in the sum that the residual makes
//! anyway.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{Pass, Report};
use crate::calibrate::{Activations, Calibration};
use crate::error::{Error, Result};
use crate::ir::{Action, Graph, Node, Op, Part, Rewriter, Role, ValueId, Weight, rewrite};

/// How many neurons may stay in full precision.
const OUTLIERS: [usize; 4] = [2, 4, 8, 16];

/// Where the rest may be cut, as shares.
const CUTS: [f32; 5] = [0.06, 0.12, 0.25, 0.4, 0.55];

/// How much of the square error has to go for the outliers, and for every further group, to be worth their time.
const WORTH_A_GROUP: f32 = 0.8;

/// The pass.
pub struct GroupNeurons<'a> {
    /// What is known of the activations; that of the groups' is added.
    pub calibration: &'a RefCell<Calibration>,
    /// The most groups of 8-bit neurons that a layer is cut into.
    pub groups: usize,
}

impl Pass for GroupNeurons<'_> {
    fn name(&self) -> &'static str {
        "group-neurons"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        let mut plans = BTreeMap::new();
        for (_, node) in graph.nodes().filter(|(_, node)| is(node, Part::FeedForwardOut)) {
            match self.plan(graph, node)? {
                Ok((out, plan)) => drop(plans.insert(out, plan)),
                Err(why) => report.left.push(format!("{}: {why}", graph.node_name(node))),
            }
        }
        report.changed = plans.len();
        let mut drawn = BTreeMap::new();
        let after = rewrite(graph, |rw, node| self.apply(rw, node, &plans, &mut drawn))?;
        Ok((after, report))
    }
}

/// A feed-forward block whose neurons can change places, and how they are to stand.
struct Plan<'a> {
    inner: &'a Node,
    activation: &'a Node,
    /// In full precision.
    outliers: Vec<usize>,
    groups: Vec<Vec<usize>>,
}

impl GroupNeurons<'_> {
    fn plan<'a>(&self, graph: &'a Graph, outer: &Node) -> Result<Result<(ValueId, Plan<'a>), &'static str>> {
        let Some((out, inner, activation)) = matched(graph, outer) else {
            return Ok(Err("it does not read one activation of one linear layer"));
        };
        let calibration = self.calibration.borrow();
        let seen = operand(outer, 0).and_then(|x| calibration.get(&graph.value(x).name));
        let (Some(seen), Some(weight)) = (seen, operand(outer, 1).and_then(|w| graph.weight(w))) else {
            return Ok(Err("nothing is known of its activations"));
        };
        let layout = Layout::of(seen, weight)?;
        let Some((outliers, groups)) = layout.best(self.groups) else {
            return Ok(Err("its neurons are of one size"));
        };
        Ok(Ok((out, Plan { inner, activation, outliers, groups })))
    }

    fn apply(
        &self,
        rw: &mut Rewriter,
        node: &Node,
        plans: &BTreeMap<ValueId, Plan>,
        drawn: &mut BTreeMap<ValueId, Vec<ValueId>>,
    ) -> Result<Action> {
        if let Some((out, plan)) = node.outputs.first().and_then(|out| plans.get_key_value(out)) {
            let parts = self.draw(rw, node, plan)?;
            let sum = rw.node(rw.name(node), Op::Sum, &parts)?;
            drawn.insert(*out, parts);
            return Ok(Action::Replace(vec![sum]));
        }
        // The residual's sum takes the parts as they are.
        let parts = |id: Option<ValueId>| id.and_then(|id| drawn.get(&id));
        if node.op != Op::Add || (0..2).all(|i| parts(operand(node, i)).is_none()) {
            return Ok(Action::Keep);
        }
        let mut terms = Vec::new();
        for i in 0..2 {
            match parts(operand(node, i)) {
                Some(parts) => terms.extend(parts),
                None => terms.push(rw.required(node, i)?),
            }
        }
        Ok(Action::Replace(vec![rw.node(rw.name(node), Op::Sum, &terms)?]))
    }

    /// The block's output in parts, the bias with the first.
    fn draw(&self, rw: &mut Rewriter, outer: &Node, plan: &Plan) -> Result<Vec<ValueId>> {
        let role = outer.role;
        let mut parts = Vec::new();
        for (i, at) in plan.groups.iter().enumerate() {
            let parted = Parted { plan, outer, at, name: format!("g{i}"), role, first: i == 0 };
            parts.push(parted.draw(rw, self.calibration)?);
        }
        if !plan.outliers.is_empty() {
            let role = role.map(|role| Role { part: Part::Outliers, ..role });
            let (at, name) = (&plan.outliers, "outliers".to_owned());
            parts.push(Parted { plan, outer, at, name, role, first: false }.draw(rw, self.calibration)?);
        }
        rw.set_role(role);
        Ok(parts)
    }
}

/// Some neurons of a block.
struct Parted<'a> {
    plan: &'a Plan<'a>,
    outer: &'a Node,
    at: &'a [usize],
    name: String,
    role: Option<Role>,
    first: bool,
}

impl Parted<'_> {
    fn draw(&self, rw: &mut Rewriter, calibration: &RefCell<Calibration>) -> Result<ValueId> {
        let part = self.role.map(|role| role.part);
        let apart = |role: Option<Role>| if part == Some(Part::Outliers) { self.role } else { role };
        let named = |rw: &Rewriter, node: &Node| format!("{}.{}", rw.name(node), self.name);
        rw.set_role(apart(self.plan.inner.role));
        let x = rw.required(self.plan.inner, 0)?;
        let operands = self.taken(rw, self.plan.inner, x, [(1, 1), (2, 0)])?;
        let inner = rw.node(&named(rw, self.plan.inner), Op::Linear, &operands)?;
        rw.set_role(apart(self.plan.activation.role));
        let name = named(rw, self.plan.activation);
        let activation = rw.node(&name, self.plan.activation.op.clone(), &[inner])?;
        note(calibration, rw, self.outer, &name, self.at);
        rw.set_role(apart(self.outer.role));
        let bias = if self.first { rw.operand(self.outer, 2)? } else { None };
        let mut operands = self.taken(rw, self.outer, activation, [(1, 0)])?;
        operands.extend(bias);
        rw.node(&named(rw, self.outer), Op::Linear, &operands)
    }

    /// `x`, and the constants of a layer cut to these neurons, each given as operand and dimension.
    fn taken<const N: usize>(
        &self,
        rw: &mut Rewriter,
        node: &Node,
        x: ValueId,
        cuts: [(usize, usize); N],
    ) -> Result<Vec<ValueId>> {
        let mut operands = vec![x];
        for (i, axis) in cuts {
            let Some(id) = operand(node, i) else { continue };
            let weight: &Weight =
                rw.constant(node, i).ok_or_else(|| Error::bug("what is grouped has constant weights"))?;
            let name = format!("{}.{}", rw.old().value(id).name, self.name);
            operands.push(rw.weight(&name, weight.take(axis, self.at.to_vec())?));
        }
        Ok(operands)
    }
}

fn note(calibration: &RefCell<Calibration>, rw: &Rewriter, outer: &Node, name: &str, at: &[usize]) {
    let Some(x) = operand(outer, 0) else { return };
    let mut calibration = calibration.borrow_mut();
    if let Some(taken) = calibration.get(&rw.old().value(x).name).map(|seen| seen.taken(at)) {
        calibration.insert(name, taken);
    }
}

fn operand(node: &Node, i: usize) -> Option<ValueId> {
    node.inputs.get(i).copied().flatten()
}

fn is(node: &Node, part: Part) -> bool {
    node.op == Op::Linear && node.role.is_some_and(|role| role.part == part)
}

/// The block's output, its inner layer and its non-linearity, where no one else reads what is between.
fn matched<'a>(graph: &'a Graph, outer: &Node) -> Option<(ValueId, &'a Node, &'a Node)> {
    let only = |id: ValueId| graph.consumers(id).count() == 1 && !graph.outputs().contains(&id);
    let constants =
        |node: &Node| (1..node.inputs.len()).filter_map(|i| operand(node, i)).all(|id| graph.weight(id).is_some());
    let x = operand(outer, 0).filter(|id| only(*id))?;
    let activation = graph.producer(x)?;
    if !matches!(activation.op, Op::Gelu { .. } | Op::Relu | Op::Tanh) {
        return None;
    }
    let inner = graph.producer(operand(activation, 0).filter(|id| only(*id))?)?;
    let fits = is(inner, Part::FeedForwardIn) && constants(inner) && constants(outer);
    fits.then_some((*outer.outputs.first()?, inner, activation))
}

/// The neurons from the largest to the smallest, and what the rounding of each costs.
struct Layout<'a> {
    seen: &'a Activations,
    order: Vec<usize>,
    /// By neuron: the sum of squares of its weights.
    squares: Vec<f32>,
}

impl<'a> Layout<'a> {
    fn of(seen: &'a Activations, weight: &Weight) -> Result<Layout<'a>> {
        let columns = weight.shape().get(1).copied().unwrap_or(1).max(1);
        let squares = weight.to_f32s()?.chunks(columns).map(|row| row.iter().map(|w| w * w).sum()).collect();
        let magnitudes = seen.magnitudes();
        let size = |i: &usize| magnitudes.get(*i).copied().unwrap_or_default();
        let mut order: Vec<usize> = (0..seen.channels()).collect();
        order.sort_by(|a, b| size(b).total_cmp(&size(a)).then(a.cmp(b)));
        Ok(Layout { seen, order, squares })
    }

    /// The square error that rounding some neurons by one range puts into the output.
    fn error(&self, at: &[usize]) -> f32 {
        let mut inside = vec![0.0; self.order.len()];
        at.iter().for_each(|i| inside[*i] = 1.0);
        let through: f32 = at.iter().filter_map(|i| self.squares.get(*i)).sum();
        self.seen.rounding_noise(|c| inside.get(c).copied().unwrap_or_default()) * through
    }

    /// Outliers and groups, if any way to cut is worth its time.
    fn best(&self, groups: usize) -> Option<(Vec<usize>, Vec<Vec<usize>>)> {
        let n = self.order.len();
        let mut found = (vec![], vec![self.order.clone()]);
        let mut error = self.error(&self.order);
        let whole = error;
        for count in OUTLIERS.into_iter().filter(|count| *count < n / 8) {
            let (outliers, rest) = self.order.split_at(count);
            let left = self.error(rest);
            if left < WORTH_A_GROUP * whole && left < 0.9 * error {
                error = left;
                found = (outliers.to_vec(), vec![rest.to_vec()]);
            }
        }
        while found.1.len() < groups {
            let Some(last) = found.1.pop() else { break };
            let cut = |share: &f32| last.split_at((last.len() as f32 * share) as usize / 16 * 16);
            let cost = |share: &f32| self.error(cut(share).0) + self.error(cut(share).1);
            let before = self.error(&last);
            let best = CUTS.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
            match best.filter(|share| cost(share) < WORTH_A_GROUP * before && !cut(share).0.is_empty()) {
                Some(share) => {
                    let (large, small) = cut(share);
                    found.1.extend([large.to_vec(), small.to_vec()]);
                }
                None => {
                    found.1.push(last);
                    break;
                }
            }
        }
        // Within a group the order does not count; that of the checkpoint reads memory in order.
        found.1.iter_mut().for_each(|group| group.sort_unstable());
        (!found.0.is_empty() || found.1.len() > 1).then_some(found)
    }
}
