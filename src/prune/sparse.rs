//! Zeros inside of weights: shapes stay, and only kernels that know of zeros gain by them.
//!
//! A linear layer `x · W` loses weights one input after another; the share of a removed weight is taken over by those
//! of the inputs behind it, by the covariance of the inputs, so that the layer's output moves least (SparseGPT,
//! arXiv 2301.00774). Every output is its own problem. The means are left to the bias.

use std::collections::BTreeMap;

use faer::Mat;
use serde::{Deserialize, Serialize};

use super::blocks::Block;
use super::fit::{Behind, Whole, fitted};
use super::zeros::Factor;
use super::{Request, Sparsity};
use crate::error::{Error, Result};
use crate::ir::{self, Graph, Node, Op, Role, ValueId, Weight};
use crate::passes::{Pass, ReplaceWeights};
use crate::verify::{Verified, verify};

/// The report of a layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SparseEntry {
    /// The role of the layer, e.g. `ffn-in/3`.
    pub name: String,
    /// The share of zeros.
    pub zeros: f64,
}

/// Linear layers that read the same value.
struct Group {
    x: String,
    /// The layers' names.
    layers: Vec<String>,
}

/// Makes zeros in the layers of attention and feed-forward blocks. Returns the graph, the report, and the layers that
/// were left with the reason.
///
/// Layer after layer is first fitted, as a whole, to the trained model's values there; so it repairs the error of the zeros
/// before it have moved.
pub fn sparsify(
    request: &Request,
    graph: &Verified<Graph>,
    sparsity: Sparsity,
    blocks: &[Block],
    whole: &Whole,
) -> Result<(Verified<Graph>, Vec<SparseEntry>, Vec<String>)> {
    let (mut entries, mut left) = (Vec::new(), Vec::new());
    let groups = groups(graph, sparsity, &mut left);
    let mut weights = BTreeMap::new();
    request.observer.begin("making zeros", Some(groups.len() as u64));
    for group in &groups {
        let current = verify(ReplaceWeights { weights: &weights }.run(graph)?.0)?;
        let x = current.find(&group.x).ok_or_else(|| Error::bug(format!("`{}` is gone", group.x)))?;
        let role = group.layers.first().map(|name| Layer::of(graph, name)).transpose()?.and_then(|layer| layer.role);
        let reader = blocks.iter().position(|block| Some(block.role) == role);
        let behind = match reader.and_then(|i| Some((i, blocks.get(i)?))) {
            Some((i, block)) => Behind::collect(request, &current, block, whole, i)?,
            None => {
                // A layer with the input of the trained model's layer gives its output.
                let k = current.value(x).ty.shape.last().and_then(|dim| dim.fixed()).unwrap_or(0);
                Behind::of(request, &current, &[x], &identity(k)?, whole.input(&group.x)?)?
            }
        };
        let factor = Factor::of(&behind.all)?;
        for name in &group.layers {
            let layer = Layer::of(graph, name)?;
            let trained = layer.weight.to_f32s()?;
            let [start, bias] = match request.spec.refit {
                true => behind.start(&trained, layer.bias_values()?.as_deref(), layer.n, reader.is_some())?,
                false => [trained.to_vec(), layer.bias_values()?.unwrap_or_default()],
            };
            let made = factor.sparse(&start, layer.n, sparsity, request.spec.importance, request.spec.refit)?;
            let zeros = made.iter().filter(|w| **w == 0.0).count();
            entries.push(SparseEntry { name: layer.label(), zeros: zeros as f64 / made.len().max(1) as f64 });
            if let Some((name, _)) = layer.bias.as_ref().filter(|_| request.spec.refit) {
                let moved = behind.all.moved_bias(&bias, &start, &made);
                weights.insert(name.clone(), fitted(name, vec![moved.len()], &moved)?);
            }
            weights.insert(layer.name.clone(), fitted(&layer.name, layer.weight.shape().to_vec(), &made)?);
        }
        request.observer.advance(1);
    }
    request.observer.done(&format!("zeros made in {} layers", entries.len()));
    let graph = verify(ReplaceWeights { weights: &weights }.run(graph)?.0)?;
    Ok((graph, entries, left))
}

fn identity(k: usize) -> Result<Weight> {
    Weight::f32s(vec![k, k], &(0..k * k).map(|i| if i % (k + 1) == 0 { 1.0 } else { 0.0 }).collect::<Vec<f32>>())
}

impl Behind {
    /// Weights `[k, n]` and a bias to start from: those of a block's reader as they were fitted, others as the fit
    /// of their input, `(x · M + m) · W + b`.
    fn start(&self, trained: &[f32], bias: Option<&[f32]>, n: usize, reader: bool) -> Result<[Vec<f32>; 2]> {
        let [k, _] = self.all.dims();
        let all: Vec<usize> = (0..k).collect();
        let (map, shift) = self.all.solve(&all, self.ridge(&all)?)?;
        if reader {
            return Ok([map, shift]);
        }
        let matrix = |values: &[f32], rows: usize, columns: usize| {
            Mat::from_fn(rows, columns, |i, j| values.get(i * columns + j).copied().unwrap_or_default())
        };
        let weight = matrix(trained, k, n);
        let product = matrix(&map, k, k) * &weight;
        let mut moved = bias.map_or(vec![0.0; n], <[f32]>::to_vec);
        let shifted = matrix(&shift, 1, k) * &weight;
        moved.iter_mut().enumerate().for_each(|(j, b)| *b += shifted[(0, j)]);
        Ok([(0..k).flat_map(|i| (0..n).map(move |j| (i, j))).map(|at| product[at]).collect(), moved])
    }
}

/// The layers that get zeros, those that read the same value together, in the order in which they run.
fn groups(graph: &Graph, sparsity: Sparsity, left: &mut Vec<String>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (_, node) in graph.nodes().filter(|(_, node)| is_layer(node)) {
        let constant = node.operand(1).and_then(|id| Some((id, graph.weight(id)?)));
        let (Some(x), Some((id, weight))) = (node.operand(0), constant) else { continue };
        let name = graph.node_name(node).to_owned();
        // The best ridge of one layer is not that of the others.
        if graph.consumers(id).filter(|node| is_layer(node)).count() > 1 {
            left.push(format!("{name}: other layers have the same weights"));
            continue;
        }
        let k = weight.shape().first().copied().unwrap_or(0);
        match sparsity {
            Sparsity::Pattern { of, .. } if !k.is_multiple_of(of) => {
                left.push(format!("{name}: its {k} inputs are no multiple of {of}"));
                continue;
            }
            _ => {}
        }
        let x = graph.value(x).name.clone();
        match groups.iter_mut().find(|group| group.x == x) {
            Some(group) => group.layers.push(name),
            None => groups.push(Group { x, layers: vec![name] }),
        }
    }
    groups
}

/// The inputs of the layers that are no reader of a block, each once.
pub fn inputs(graph: &Graph, blocks: &[Block]) -> Vec<ValueId> {
    let mut ids = Vec::new();
    for (_, node) in graph.nodes().filter(|(_, node)| is_layer(node)) {
        let reads = blocks.iter().any(|block| Some(block.role) == node.role);
        if let Some(x) = node.operand(0).filter(|id| !reads && !ids.contains(id)) {
            ids.push(x);
        }
    }
    ids
}

fn is_layer(node: &Node) -> bool {
    let block = node.role.map(|role| role.part.block());
    node.op == Op::Linear && matches!(block, Some(ir::Block::Attention | ir::Block::FeedForward))
}

/// A linear layer by its name.
struct Layer {
    role: Option<Role>,
    name: String,
    weight: Weight,
    bias: Option<(String, Weight)>,
    n: usize,
}

impl Layer {
    fn of(graph: &Graph, name: &str) -> Result<Layer> {
        let lost = || Error::bug(format!("`{name}` is no layer with constant weights"));
        let node = graph.find(name).and_then(|id| graph.producer(id)).ok_or_else(lost)?;
        let constant =
            |i: usize| node.operand(i).and_then(|id| Some((graph.value(id).name.clone(), graph.weight(id)?)));
        let (name, weight) = constant(1).ok_or_else(lost)?;
        Ok(Layer {
            role: node.role,
            name,
            n: weight.shape().get(1).copied().unwrap_or(0),
            weight: weight.clone(),
            bias: constant(2).map(|(name, bias)| (name, bias.clone())),
        })
    }

    fn label(&self) -> String {
        self.role.map(Role::name).unwrap_or_default()
    }

    fn bias_values(&self) -> Result<Option<Vec<f32>>> {
        self.bias.as_ref().map(|(_, bias)| Ok(bias.to_f32s()?.into_owned())).transpose()
    }
}
