//! Heads and inner neurons that go, and weights that shrink with them.
//!
//! `Linear(g(x · W), V) ≈ Linear(g(x · W[:, kept]), V′)` for a `g` that works on each channel, or on each head, alone.
//!
//! The nodes before the layer that reads the channels are rebuilt with those that stay: projections, tables,
//! biases of scores. With none kept, the layer's bias is all that is added to the residual.

use std::collections::{BTreeMap, HashMap};

use super::{Pass, Report};
use crate::error::{Error, Result};
use crate::ir::{Action, Graph, Node, Op, Origin, Part, Rewriter, Role, TensorType, ValueId, Weight, retype};

/// The channels that stay of a block, and the weights of the layer that reads them.
#[derive(Clone, Debug)]
pub struct ChannelCut {
    /// The heads or the neurons that stay, in ascending order.
    pub kept: Vec<usize>,
    /// `[kept channels, n]`
    pub weight: Weight,
    /// `[n]`
    pub bias: Option<Weight>,
}

/// The pass: blocks by the role of the layer that reads their channels.
pub struct PruneChannels<'a> {
    /// The cuts.
    pub cuts: &'a BTreeMap<Role, ChannelCut>,
}

/// A block whose channels can go: attention by whole heads, a feed-forward block by neurons.
#[derive(Clone, Copy, Debug)]
pub struct Prunable<'a> {
    /// The layer that reads the channels.
    pub reader: &'a Node,
    /// The role by which the block is called.
    pub role: Role,
    /// How many heads or neurons there are.
    pub units: usize,
    /// Channels of a head; 1 for neurons.
    pub unit: usize,
}

impl<'a> Prunable<'a> {
    /// The block that ends in a linear layer. None, where the node is no such layer; an error says why the block cannot
    /// be cut.
    pub fn of(graph: &'a Graph, reader: &'a Node) -> Option<Result<Prunable<'a>, &'static str>> {
        let role = reader.role.filter(|role| matches!(role.part, Part::AttentionOutput | Part::FeedForwardOut))?;
        let weight = reader.operand(1).and_then(|w| graph.weight(w)).filter(|_| reader.op == Op::Linear)?;
        let x = reader.operand(0)?;
        let channels = *weight.shape().first()?;
        let unit = match graph.producer(x).map(|node| &node.op) {
            Some(Op::Attention { heads, .. }) => channels / usize::try_from(*heads).ok()?.max(1),
            _ if role.part == Part::AttentionOutput => return Some(Err("it does not read attention")),
            _ => 1,
        };
        if graph.outputs().contains(&x) || graph.consumers(x).count() != 1 {
            return Some(Err("other nodes read its input too"));
        }
        // A walk that builds nothing: whether every channel can be followed to where it comes from.
        Some(Walk { graph, unit }.follow(x).map(|()| Prunable { reader, role, units: channels / unit, unit }))
    }

    /// The channels of some heads or neurons.
    pub fn channels(&self, units: &[usize]) -> Vec<usize> {
        channels_of(units, self.unit)
    }

    /// The sum that the residual makes, and its other operand, where the block ends in one.
    pub fn residual(&self, graph: &'a Graph) -> Option<(ValueId, ValueId)> {
        let out = *self.reader.outputs.first()?;
        let mut readers = graph.consumers(out);
        let sum = readers.next().filter(|node| node.op == Op::Add && readers.next().is_none())?;
        let other = (0..2).filter_map(|i| sum.operand(i)).find(|id| *id != out)?;
        let same = graph.value(other).ty == graph.value(out).ty && !graph.outputs().contains(&out);
        same.then_some((*sum.outputs.first()?, other))
    }
}

fn channels_of(units: &[usize], unit: usize) -> Vec<usize> {
    units.iter().flat_map(|u| u * unit..(u + 1) * unit).collect()
}

impl Pass for PruneChannels<'_> {
    fn name(&self) -> &'static str {
        "prune-channels"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        let after = retype(graph, |rw, node| {
            let Some(cut) = node.role.and_then(|role| self.cuts.get(&role)) else { return Ok(Action::Keep) };
            let block = match Prunable::of(graph, node) {
                None => return Ok(Action::Keep),
                Some(Err(why)) => {
                    report.left.push(format!("{}: {why}", graph.node_name(node)));
                    return Ok(Action::Keep);
                }
                Some(Ok(block)) => block,
            };
            report.changed += 1;
            Ok(Action::Replace(vec![build(rw, &block, cut)?]))
        })?;
        Ok((after, report))
    }
}

fn build(rw: &mut Rewriter, block: &Prunable, cut: &ChannelCut) -> Result<ValueId> {
    let (node, graph) = (block.reader, rw.old());
    let constant = |i: usize| node.operand(i).map(|id| graph.value(id).name.clone());
    let bias = match &cut.bias {
        None => None,
        Some(bias) => {
            let name = constant(2).unwrap_or_else(|| format!("{}.bias", graph.node_name(node)));
            Some(rw.weight(&name, bias.clone()))
        }
    };
    if cut.kept.is_empty() {
        if block.residual(graph).is_none() {
            return Err(Error::unsupported(format!(
                "nothing is kept of `{}`, and no residual replaces it",
                graph.node_name(node)
            )));
        }
        let width = node.outputs.first().map(|id| graph.value(*id).ty.clone());
        return match (bias, width.and_then(|ty| ty.shape.last().and_then(|dim| dim.fixed()))) {
            (Some(bias), _) => Ok(bias),
            (None, Some(n)) => {
                Ok(rw.weight(&format!("{}.none", graph.node_name(node)), Weight::f32s(vec![n], &vec![0.0; n])?))
            }
            _ => Err(Error::bug("a linear layer has a width")),
        };
    }
    let x = node.operand(0).ok_or_else(|| Error::bug("a linear layer reads something"))?;
    let mut rewriting = Rewriting { rw, heads: &cut.kept, unit: block.unit, built: HashMap::new() };
    let x = rewriting.channels(x, &block.channels(&cut.kept))?;
    rw.set_role(node.role);
    let name = constant(1).unwrap_or_default();
    let operands: Vec<ValueId> = [x, rw.weight(&name, cut.weight.clone())].into_iter().chain(bias).collect();
    rw.node(rw.name(node), Op::Linear, &operands)
}

/// Follows channels, by the same cases as [`Rewriting`].
struct Walk<'a> {
    graph: &'a Graph,
    unit: usize,
}

impl Walk<'_> {
    fn follow(&self, id: ValueId) -> Result<(), &'static str> {
        let node = match &self.graph.value(id).origin {
            Origin::Weight(_) => return Ok(()),
            Origin::Input => return Err("its channels come from an input"),
            Origin::Node { node, .. } => self.graph.node(*node),
        };
        let operand = |i: usize| node.operand(i).ok_or("an operand is missing");
        match &node.op {
            Op::Linear => match operand(1).map(|w| self.graph.weight(w)) {
                Ok(Some(_)) => Ok(()),
                _ => Err("a projection's weight is computed"),
            },
            Op::Attention { kv_heads: Some(_), .. } => Err("its heads share keys and values"),
            Op::Attention { .. } if node.operand(5).is_some() => Err("its heads have a past"),
            Op::Attention { .. } => (0..3).try_for_each(|i| self.follow(operand(i)?)),
            Op::Embed | Op::Split { .. } => self.follow(operand(0)?),
            Op::Rotary { .. } | Op::ThetaRotary { .. } if self.unit > 1 => self.follow(operand(0)?),
            op if is_unary(op) => self.follow(operand(0)?),
            Op::Add | Op::Sub | Op::Mul => (0..2).try_for_each(|i| self.follow(operand(i)?)),
            _ => Err("its channels come from an operation that mixes them"),
        }
    }
}

fn is_unary(op: &Op) -> bool {
    matches!(op, Op::Gelu { .. } | Op::Relu | Op::LeakyRelu { .. } | Op::Tanh | Op::Sigmoid)
}

/// The operation with another number of heads.
fn with_heads(op: &Op, n: i64) -> Op {
    let mut op = op.clone();
    if let Op::Attention { heads, .. } | Op::Rotary { heads, .. } | Op::ThetaRotary { heads, .. } = &mut op {
        *heads = n;
    }
    op
}

/// Rebuilds a layer's input with some of its channels.
struct Rewriting<'r, 'a> {
    rw: &'r mut Rewriter<'a>,
    heads: &'r [usize],
    unit: usize,
    built: HashMap<ValueId, ValueId>,
}

impl Rewriting<'_, '_> {
    /// The channels `at` of the last dimension of a value.
    fn channels(&mut self, id: ValueId, at: &[usize]) -> Result<ValueId> {
        if let Some(new) = self.built.get(&id) {
            return Ok(*new);
        }
        let graph = self.rw.old();
        let value = graph.value(id);
        let new = match &value.origin {
            Origin::Weight(weight) => match weight.shape().len().checked_sub(1) {
                Some(last) if weight.shape().get(last) != Some(&1) => {
                    self.rw.weight(&value.name, weight.take(last, at.to_vec())?)
                }
                _ => self.rw.get(id)?,
            },
            Origin::Input => return Err(Error::bug("channels of an input were to be cut")),
            Origin::Node { node, slot } => {
                let outputs = self.node(graph.node(*node), at)?;
                for (old, new) in graph.node(*node).outputs.iter().zip(&outputs) {
                    self.built.insert(*old, *new);
                }
                *outputs.get(*slot).ok_or_else(|| Error::bug("a cut node has all its outputs"))?
            }
        };
        self.built.insert(id, new);
        Ok(new)
    }

    fn node(&mut self, node: &Node, at: &[usize]) -> Result<Vec<ValueId>> {
        let (heads, name) = (self.heads.len() as i64, self.rw.name(node));
        let operand = |i: usize| node.operand(i).ok_or_else(|| Error::bug(format!("`{name}` lacks operand {i}")));
        let (op, inputs) = match &node.op {
            Op::Linear => {
                let mut inputs = vec![Some(self.rw.required(node, 0)?), Some(self.channels(operand(1)?, at)?)];
                if let Some(bias) = node.operand(2) {
                    inputs.push(Some(self.channels(bias, at)?));
                }
                (Op::Linear, inputs)
            }
            Op::Attention { .. } => {
                let mut inputs = Vec::new();
                for i in 0..3 {
                    inputs.push(Some(self.channels(operand(i)?, at)?));
                }
                inputs.push(self.rw.operand(node, 3)?);
                inputs.push(node.operand(4).map(|bias| self.scores(bias)).transpose()?);
                while inputs.last() == Some(&None) {
                    inputs.pop();
                }
                (with_heads(&node.op, heads), inputs)
            }
            Op::Embed => (Op::Embed, vec![Some(self.channels(operand(0)?, at)?), self.rw.operand(node, 1)?]),
            Op::Rotary { .. } | Op::ThetaRotary { .. } => {
                let mut inputs = vec![Some(self.channels(operand(0)?, at)?)];
                for i in 1..node.inputs.len() {
                    inputs.push(self.rw.operand(node, i)?);
                }
                (with_heads(&node.op, heads), inputs)
            }
            Op::Split { axis, sizes } => {
                let starts = sizes.iter().scan(0, |next, size| Some(std::mem::replace(next, *next + *size as usize)));
                let all: Vec<usize> = starts.flat_map(|start| at.iter().map(move |i| start + i)).collect();
                let op = Op::Split { axis: *axis, sizes: vec![at.len() as i64; sizes.len()] };
                (op, vec![Some(self.channels(operand(0)?, &all)?)])
            }
            op => {
                let mut inputs = Vec::new();
                for i in 0..node.inputs.len() {
                    inputs.push(Some(self.channels(operand(i)?, at)?));
                }
                (op.clone(), inputs)
            }
        };
        self.rw.set_role(node.role);
        self.rw.nodes(name, op, &inputs)
    }

    /// The bias of scores, for the heads that are kept.
    fn scores(&mut self, id: ValueId) -> Result<ValueId> {
        let graph = self.rw.old();
        let TensorType { shape, .. } = &graph.value(id).ty;
        if shape.get(1).and_then(|dim| dim.fixed()) == Some(1) {
            return self.rw.get(id);
        }
        let kept = channels_of(self.heads, self.unit);
        let heads = self.heads.len() as i64;
        let Some(node) = graph.producer(id) else { return self.gathered(id) };
        let operand = |i: usize| node.operand(i).ok_or_else(|| Error::bug("scores have operands"));
        let (op, inputs) = match &node.op {
            Op::Add => (Op::Add, vec![Some(self.scores(operand(0)?)?), Some(self.scores(operand(1)?)?)]),
            Op::DistanceScores { scale, keys, .. } => {
                let inputs = vec![Some(self.channels(operand(0)?, &kept)?), Some(self.channels(operand(1)?, &kept)?)];
                (Op::DistanceScores { heads, scale: *scale, keys: *keys }, inputs)
            }
            Op::SegmentScores { scale, .. } => {
                let (x, table) = (self.channels(operand(0)?, &kept)?, self.channels(operand(1)?, &kept)?);
                (Op::SegmentScores { heads, scale: *scale }, vec![Some(x), Some(table), self.rw.operand(node, 2)?])
            }
            _ => return self.gathered(id),
        };
        self.rw.set_role(node.role);
        let outputs = self.rw.nodes(self.rw.name(node), op, &inputs)?;
        outputs.first().copied().ok_or_else(|| Error::bug("scores are an output"))
    }

    /// Scores that other layers read too: a Gather selects those of the kept heads.
    fn gathered(&mut self, id: ValueId) -> Result<ValueId> {
        let name = &self.rw.old().value(id).name;
        let heads: Vec<i64> = self.heads.iter().map(|head| *head as i64).collect();
        let heads = self.rw.weight(&format!("{name}.heads"), Weight::i64s(vec![heads.len()], &heads)?);
        let scores = self.rw.get(id)?;
        self.rw.node(&format!("{name}.kept"), Op::Gather { axis: 1 }, &[scores, heads])
    }
}

#[cfg(test)]
mod tests {
    use super::Prunable;
    use crate::ir::text::parse;

    #[test]
    fn heads_that_share_keys_or_have_a_past_stay() {
        let text = |attributes: &str, k: &str, past: &str, more: &str| {
            format!(
                r#"graph "g" {{
  input %x: f32[b, s, 8]
  input %past: f32[b, 4, p, 2]
  weight %w: f32[8, 8] = source "w"
  weight %k.w: f32[8, {k}] = source "k"
  %q: f32[b, s, 8] = Linear(%x, %w) @query/0
  %k: f32[b, s, {k}] = Linear(%x, %k.w) @key/0
  %a: f32[b, s, 8]{more} = Attention {{heads=4, scale=0.5{attributes}}} (%q, %k, %k{past}) @attention/0
  %y: f32[b, s, 8] = Linear(%a, %w) @attention-output/0
  output %y
}}
"#
            )
        };
        let presents = ", %pk: f32[b, 4, p + s, 2], %pv: f32[b, 4, p + s, 2]";
        for (text, why) in [
            (text("", "8", "", ""), None),
            (text(", causal=true, positions=9", "8", "", ""), None),
            (text(", kv_heads=2", "4", "", ""), Some("its heads share keys and values")),
            (text("", "8", ", _, _, %past, %past", presents), Some("its heads have a past")),
        ] {
            let graph = parse(&text).unwrap();
            let reader = graph.nodes().map(|(_, node)| node).last().unwrap();
            assert_eq!(Prunable::of(&graph, reader).unwrap().err(), why, "{text}");
        }
    }
}
