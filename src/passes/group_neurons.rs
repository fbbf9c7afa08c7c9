//! Neurons of one size side by side.
//!
//! `Linear(g(Linear(x, [A|B])), [C; D]) = Linear(g(Linear(x, A)), C) + Linear(g(Linear(x, B)), D)`
//!
//! Behind the non-linearity no factor can even out the channels ([`super::Smooth`]), but neurons can be permuted.
//! The few that fire far beyond the rest are split off and stay in full precision: they are a sliver of the work. What
//! remains is cut by size, and every group has its own range. The parts add up in the sum that the residual makes
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

/// The share of the square error that the outliers, and every further group, must remove to justify their time.
const LEAST_GAIN_OF_A_GROUP: f32 = 0.8;

/// The pass.
pub struct GroupNeurons<'a> {
    /// The collected statistics of activations; those of the groups are added.
    pub calibration: &'a RefCell<Calibration>,
    /// The most groups of 8-bit neurons that a layer is cut into.
    pub groups: usize,
    /// Layers that stay as they are.
    pub keep: &'a [Role],
}

impl Pass for GroupNeurons<'_> {
    fn name(&self) -> &'static str {
        "group-neurons"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        let mut plans = BTreeMap::new();
        for (_, node) in graph.nodes().filter(|(_, node)| is(node, Part::FeedForwardOut) && !kept(node, self.keep)) {
            match self.plan(graph, node)? {
                Ok((out, plan)) => drop(plans.insert(out, plan)),
                Err(why) => report.left.push(format!("{}: {why}", graph.node_name(node))),
            }
        }
        report.changed = plans.len();
        let mut built = BTreeMap::new();
        let after = rewrite(graph, |rw, node| self.apply(rw, node, &plans, &mut built))?;
        Ok((after, report))
    }
}

/// A feed-forward block whose neurons can be permuted, and their new order.
struct Grouping<'a> {
    inner: &'a Node,
    activation: &'a Node,
    /// In full precision.
    outliers: Vec<usize>,
    groups: Vec<Vec<usize>>,
}

impl GroupNeurons<'_> {
    fn plan<'a>(&self, graph: &'a Graph, outer: &Node) -> Result<Result<(ValueId, Grouping<'a>), &'static str>> {
        let Some((out, inner, activation)) = matched(graph, outer) else {
            return Ok(Err("it does not read one activation of one linear layer"));
        };
        let calibration = self.calibration.borrow();
        let observed = outer.operand(0).and_then(|x| calibration.get(&graph.value(x).name));
        let (Some(observed), Some(weight)) = (observed, outer.operand(1).and_then(|w| graph.weight(w))) else {
            return Ok(Err("nothing is known of its activations"));
        };
        let layout = Layout::of(observed, weight)?;
        let Some((outliers, groups)) = layout.best(self.groups) else {
            return Ok(Err("its neurons are of one size"));
        };
        Ok(Ok((out, Grouping { inner, activation, outliers, groups })))
    }

    fn apply(
        &self,
        rw: &mut Rewriter,
        node: &Node,
        plans: &BTreeMap<ValueId, Grouping>,
        built: &mut BTreeMap<ValueId, Vec<ValueId>>,
    ) -> Result<Action> {
        if let Some((out, plan)) = node.outputs.first().and_then(|out| plans.get_key_value(out)) {
            let parts = self.build(rw, node, plan)?;
            let sum = rw.node(rw.name(node), Op::Sum, &parts)?;
            built.insert(*out, parts);
            return Ok(Action::Replace(vec![sum]));
        }
        // The residual's sum takes the parts as they are.
        let parts = |id: Option<ValueId>| id.and_then(|id| built.get(&id));
        if node.op != Op::Add || (0..2).all(|i| parts(node.operand(i)).is_none()) {
            return Ok(Action::Keep);
        }
        let mut terms = Vec::new();
        for i in 0..2 {
            match parts(node.operand(i)) {
                Some(parts) => terms.extend(parts),
                None => terms.push(rw.required(node, i)?),
            }
        }
        Ok(Action::Replace(vec![rw.node(rw.name(node), Op::Sum, &terms)?]))
    }

    /// The block's output in parts, the bias with the first.
    fn build(&self, rw: &mut Rewriter, outer: &Node, plan: &Grouping) -> Result<Vec<ValueId>> {
        let role = outer.role;
        let mut parts = Vec::new();
        for (i, at) in plan.groups.iter().enumerate() {
            let parted = Parted { plan, outer, at, name: format!("g{i}"), role, first: i == 0 };
            parts.push(parted.build(rw, self.calibration)?);
        }
        if !plan.outliers.is_empty() {
            let role = role.map(|role| Role { part: Part::Outliers, ..role });
            let (at, name) = (&plan.outliers, "outliers".to_owned());
            parts.push(Parted { plan, outer, at, name, role, first: false }.build(rw, self.calibration)?);
        }
        rw.set_role(role);
        Ok(parts)
    }
}

/// Some neurons of a block.
struct Parted<'a> {
    plan: &'a Grouping<'a>,
    outer: &'a Node,
    at: &'a [usize],
    name: String,
    role: Option<Role>,
    first: bool,
}

impl Parted<'_> {
    fn build(&self, rw: &mut Rewriter, calibration: &RefCell<Calibration>) -> Result<ValueId> {
        let part = self.role.map(|role| role.part);
        let role_of = |role: Option<Role>| if part == Some(Part::Outliers) { self.role } else { role };
        let named = |rw: &Rewriter, node: &Node| format!("{}.{}", rw.name(node), self.name);
        rw.set_role(role_of(self.plan.inner.role));
        let x = rw.required(self.plan.inner, 0)?;
        let operands = self.taken(rw, self.plan.inner, x, [(1, 1), (2, 0)])?;
        let inner = rw.node(&named(rw, self.plan.inner), Op::Linear, &operands)?;
        rw.set_role(role_of(self.plan.activation.role));
        let name = named(rw, self.plan.activation);
        let activation = rw.node(&name, self.plan.activation.op.clone(), &[inner])?;
        note(calibration, rw, self.outer, &name, self.at);
        rw.set_role(role_of(self.outer.role));
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
            let Some(id) = node.operand(i) else { continue };
            let weight: &Weight =
                rw.constant(node, i).ok_or_else(|| Error::bug("a grouped layer has constant weights"))?;
            let name = format!("{}.{}", rw.old().value(id).name, self.name);
            operands.push(rw.weight(&name, weight.take(axis, self.at.to_vec())?));
        }
        Ok(operands)
    }
}

fn note(calibration: &RefCell<Calibration>, rw: &Rewriter, outer: &Node, name: &str, at: &[usize]) {
    let Some(x) = outer.operand(0) else { return };
    let mut calibration = calibration.borrow_mut();
    if let Some(taken) = calibration.get(&rw.old().value(x).name).map(|observed| observed.taken(at)) {
        calibration.insert(name, taken);
    }
}

fn kept(node: &Node, keep: &[Role]) -> bool {
    Role::is_in(node.role, keep)
}

fn is(node: &Node, part: Part) -> bool {
    node.op == Op::Linear && node.role.is_some_and(|role| role.part == part)
}

/// The block's output, its inner layer and its non-linearity, where no other node reads the values between.
fn matched<'a>(graph: &'a Graph, outer: &Node) -> Option<(ValueId, &'a Node, &'a Node)> {
    let only = |id: ValueId| graph.consumers(id).count() == 1 && !graph.outputs().contains(&id);
    let constants =
        |node: &Node| (1..node.inputs.len()).filter_map(|i| node.operand(i)).all(|id| graph.weight(id).is_some());
    let x = outer.operand(0).filter(|id| only(*id))?;
    let activation = graph.producer(x)?;
    if !matches!(activation.op, Op::Gelu { .. } | Op::Relu | Op::Tanh) {
        return None;
    }
    let inner = graph.producer(activation.operand(0).filter(|id| only(*id))?)?;
    let fits = is(inner, Part::FeedForwardIn) && constants(inner) && constants(outer);
    fits.then_some((*outer.outputs.first()?, inner, activation))
}

/// The neurons from the largest to the smallest, and the cost of rounding each.
struct Layout<'a> {
    observed: &'a Activations,
    order: Vec<usize>,
    /// By neuron: the sum of squares of its weights.
    squares: Vec<f32>,
}

impl<'a> Layout<'a> {
    fn of(observed: &'a Activations, weight: &Weight) -> Result<Layout<'a>> {
        let columns = weight.shape().get(1).copied().unwrap_or(1).max(1);
        let squares = weight.to_f32s()?.chunks(columns).map(|row| row.iter().map(|w| w * w).sum()).collect();
        let magnitudes = observed.magnitudes();
        let size = |i: &usize| magnitudes.get(*i).copied().unwrap_or_default();
        let mut order: Vec<usize> = (0..observed.channels()).collect();
        order.sort_by(|a, b| size(b).total_cmp(&size(a)).then(a.cmp(b)));
        Ok(Layout { observed, order, squares })
    }

    /// The square error that rounding some neurons by one range puts into the output.
    fn error(&self, at: &[usize]) -> f32 {
        let mut inside = vec![0.0; self.order.len()];
        at.iter().for_each(|i| inside[*i] = 1.0);
        let through: f32 = at.iter().filter_map(|i| self.squares.get(*i)).sum();
        self.observed.rounding_noise(|c| inside.get(c).copied().unwrap_or_default()) * through
    }

    /// Outliers and groups, if any grouping justifies its time.
    fn best(&self, groups: usize) -> Option<(Vec<usize>, Vec<Vec<usize>>)> {
        let n = self.order.len();
        let mut found = (vec![], vec![self.order.clone()]);
        let mut error = self.error(&self.order);
        let whole = error;
        for count in OUTLIERS.into_iter().filter(|count| *count < n / 8) {
            let (outliers, rest) = self.order.split_at(count);
            let left = self.error(rest);
            if left < LEAST_GAIN_OF_A_GROUP * whole && left < 0.9 * error {
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
            match best.filter(|share| cost(share) < LEAST_GAIN_OF_A_GROUP * before && !cut(share).0.is_empty()) {
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use ndarray::Array2;

    use super::GroupNeurons;
    use crate::calibrate::{Activations, Calibration, Extremes, Histogram};
    use crate::passes::tests::run;

    /// A block of `n` neurons, of which `large` reach 100 and the others 1.
    fn block(n: usize, large: &[usize]) -> (String, RefCell<Calibration>) {
        let text = format!(
            r#"graph "g" {{
  input %x: f32[b, s, 2]
  weight %w1: f32[2, {n}] = source "w1"
  weight %b1: f32[{n}] = source "b1"
  %inner: f32[b, s, {n}] = Linear(%x, %w1, %b1) @ffn-in/0
  %act: f32[b, s, {n}] = Relu(%inner) @activation/0
  weight %w2: f32[{n}, 2] = literal x"{}"
  weight %b2: f32[2] = source "b2"
  %outer: f32[b, s, 2] = Linear(%act, %w2, %b2) @ffn-out/0
  %y: f32[b, s, 2] = Add(%outer, %x) @ffn-norm/0
  output %y
}}
"#,
            "0000803f".repeat(2 * n)
        );
        let highest = (0..n).map(|i| if large.contains(&i) { 100.0 } else { 1.0 }).collect();
        let extremes = Extremes { lowest: vec![0.0; n], highest };
        let observed = Activations {
            by_text: vec![extremes.clone()],
            extremes,
            moments: Array2::eye(n),
            histogram: Histogram::default(),
        };
        let mut calibration = Calibration::default();
        calibration.insert("act", observed);
        (text, RefCell::new(calibration))
    }

    #[test]
    fn outliers_are_split_off_and_the_sum_takes_the_parts() {
        let (before, calibration) = block(32, &[3, 7]);
        let (after, left) = run(&GroupNeurons { calibration: &calibration, groups: 1, keep: &[] }, &before);
        assert_eq!(left, [""; 0]);
        let lines: Vec<&str> = after.lines().map(str::trim).filter(|line| line.starts_with('%')).collect();
        assert_eq!(
            lines,
            [
                "%inner.g0: f32[b, s, 30] = Linear(%x, %w1.g0, %b1.g0) @ffn-in/0",
                "%act.g0: f32[b, s, 30] = Relu(%inner.g0) @activation/0",
                "%outer.g0: f32[b, s, 2] = Linear(%act.g0, %w2.g0, %b2) @ffn-out/0",
                "%inner.outliers: f32[b, s, 2] = Linear(%x, %w1.outliers, %b1.outliers) @outliers/0",
                "%act.outliers: f32[b, s, 2] = Relu(%inner.outliers) @outliers/0",
                "%outer.outliers: f32[b, s, 2] = Linear(%act.outliers, %w2.outliers) @outliers/0",
                "%y: f32[b, s, 2] = Sum(%outer.g0, %outer.outliers, %x) @ffn-norm/0",
            ]
        );
        assert!(after.contains("%w1.outliers: f32[2, 2] = take(1, [3, 7], source \"w1\""), "{after}");
        let calibration = calibration.borrow();
        assert_eq!(calibration.get("act.g0").unwrap().magnitudes(), [1.0; 30]);
    }

    #[test]
    fn neurons_of_two_sizes_are_two_groups() {
        let (before, calibration) = block(64, &(0..16).collect::<Vec<_>>());
        let (after, _) = run(&GroupNeurons { calibration: &calibration, groups: 3, keep: &[] }, &before);
        assert!(after.contains("%act.g0: f32[b, s, 16]") && after.contains("%act.g1: f32[b, s, 48]"), "{after}");
        assert!(!after.contains("outliers"), "{after}");
    }

    #[test]
    fn neurons_of_one_size_stay_together() {
        let (before, calibration) = block(32, &[]);
        let (after, left) = run(&GroupNeurons { calibration: &calibration, groups: 3, keep: &[] }, &before);
        assert_eq!(after, before);
        assert_eq!(left, ["outer: its neurons are of one size"]);
    }
}
