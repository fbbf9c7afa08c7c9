//! Zeros inside of weights: shapes stay, and only kernels that know of zeros gain by them.
//!
//! A linear layer `x · W` loses weights one input after another; what an input's weight stood for is taken over by those
//! of the inputs behind it, as the covariance of the inputs says, so that the layer's output moves least (SparseGPT,
//! arXiv 2301.00774). Every output is a problem of its own. The means are left to the bias.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use faer::Mat;
use faer::linalg::solvers::Solve;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blocks::Block;
use super::fit::{Behind, Whole, fitted};
use super::normal::{Problem, factored, rows};
use super::{Importance, Request};
use crate::error::{Error, Result};
use crate::ir::{self, Graph, Node, Op, Role, ValueId, Weight};
use crate::passes::{Pass, ReplaceWeights};
use crate::verify::{Verified, verify};

/// How much the covariance of the inputs is smoothed, against the mean square of one.
const RIDGE: f64 = 1e-2;

/// Steps in which the weights that are left are fitted, all together, once the zeros are chosen.
const STEPS: usize = 30;

/// Inputs among which the share of zeros is the same.
const WINDOW: usize = 128;

/// Which weights of a layer are zeros.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Sparsity {
    /// This share, wherever it is missed least.
    Share(f64),
    /// At least `zeros` of every `of` weights that follow each other along the inputs, for each output.
    Pattern {
        /// How many are 0.
        zeros: usize,
        /// Of how many.
        of: usize,
    },
}

/// What may stand in a recipe.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Text(String),
}

impl TryFrom<Written> for Sparsity {
    type Error = Error;

    fn try_from(written: Written) -> Result<Sparsity> {
        match written {
            Written::Number(share) => Sparsity::share(share),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Sparsity> for String {
    fn from(sparsity: Sparsity) -> String {
        sparsity.to_string()
    }
}

impl fmt::Display for Sparsity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sparsity::Share(share) => write!(f, "{share}"),
            Sparsity::Pattern { zeros, of } => write!(f, "{zeros}:{of}"),
        }
    }
}

impl FromStr for Sparsity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Sparsity> {
        if text == "2:4" {
            return Ok(Sparsity::Pattern { zeros: 2, of: 4 });
        }
        let share = text.parse().map_err(|_| {
            Error::bad_input(format!("`{}` is no sparsity", crate::error::printable(text)))
                .hint("write a share such as 0.5, or the pattern 2:4")
        })?;
        Sparsity::share(share)
    }
}

impl Sparsity {
    fn share(share: f64) -> Result<Sparsity> {
        match share {
            0.0..1.0 => Ok(Sparsity::Share(share)),
            _ => Err(Error::bad_input(format!("sparsity {share}: the share of zeros is from 0 to below 1"))),
        }
    }

    /// Whether `[k, n]` weights, row after row, have the zeros of the pattern; for a share, whether so many are 0.
    pub fn holds<T: PartialEq + Default>(self, values: &[T], n: usize) -> bool {
        let n = n.max(1);
        let zero = T::default();
        match self {
            Sparsity::Share(share) => {
                let zeros = values.iter().filter(|value| **value == zero).count();
                zeros as f64 >= (share * values.len() as f64).floor()
            }
            Sparsity::Pattern { zeros, of } => values.chunks_exact(of * n).all(|rows| {
                (0..n).all(|j| rows.iter().skip(j).step_by(n).filter(|value| **value == zero).count() >= zeros)
            }),
        }
    }
}

/// What became of a layer.
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

/// Makes zeros in the layers of attention and feed-forward blocks. Gives the graph, what was made, and the layers that
/// were left with the reason.
///
/// Layer after layer is first fitted, as a whole, to what the trained model has at its place; so it mends what the zeros
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
            Some((i, block)) => Behind::look(request, &current, block, whole, i)?,
            None => {
                // Where a layer reads what the trained model's reads, it gives what that gives.
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
    /// Weights `[k, n]` and a bias from which to begin: those of a block's reader as they were fitted, others as the fit
    /// of what they read, `(x · M + m) · W + b`.
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
        let weight = node.operand(1).and_then(|w| graph.weight(w));
        let (Some(x), Some(weight)) = (node.operand(0), weight) else { continue };
        let name = graph.node_name(node).to_owned();
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

/// What the layers read that are no reader of a block, each once.
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
}

impl Layer {
    fn label(&self) -> String {
        self.role.map(|role| role.to_string().trim_start_matches('@').to_owned()).unwrap_or_default()
    }

    fn bias_values(&self) -> Result<Option<Vec<f32>>> {
        self.bias.as_ref().map(|(_, bias)| Ok(bias.to_f32s()?.into_owned())).transpose()
    }
}

/// How the inputs behind one take over what it stood for.
struct Factor {
    k: usize,
    /// `[k, k]`, upper: `Uᵀ U` is the inverse of the covariance.
    upper: Vec<f64>,
    /// The standard deviation of every input.
    sizes: Vec<f64>,
    /// `[k, k]`: the covariance.
    gram: Mat<f64>,
}

impl Factor {
    fn of(problem: &Problem) -> Result<Factor> {
        let [k, _] = problem.dims();
        let all: Vec<usize> = (0..k).collect();
        let gram = problem.gram(&all, RIDGE);
        let inverse = factored(&gram)?.solve(Mat::<f64>::identity(k, k));
        let lower = factored(&inverse)?;
        let lower = lower.L();
        let upper = (0..k).flat_map(|i| (0..k).map(move |j| if j >= i { lower[(j, i)] } else { 0.0 })).collect();
        Ok(Factor { k, upper, sizes: (0..k).map(|i| problem.variance(i).sqrt()).collect(), gram })
    }

    /// `[k, n]` weights with their zeros, row after row.
    fn sparse(
        &self,
        weight: &[f32],
        n: usize,
        sparsity: Sparsity,
        importance: Importance,
        refit: bool,
    ) -> Result<Vec<f32>> {
        let columns: Vec<Vec<f64>> = (0..n)
            .into_par_iter()
            .map(|j| {
                let column = weight.iter().skip(j).step_by(n.max(1)).map(|w| f64::from(*w)).collect();
                self.column(column, sparsity, importance, refit)
            })
            .collect();
        if columns.iter().any(|column| column.len() != self.k) {
            return Err(Error::bug("a layer has as many inputs as it reads channels"));
        }
        let mut made = Mat::from_fn(self.k, n, |i, j| columns[j][i]);
        if refit {
            let start = Mat::from_fn(self.k, n, |i, j| f64::from(weight[i * n + j]));
            self.settle(&mut made, &start);
        }
        Ok(rows(&made))
    }

    /// `min (w − start)ᵀ · covariance · (w − start)` over the weights that are not 0, for every output: conjugate
    /// gradients, scaled by the variance of the inputs.
    fn settle(&self, w: &mut Mat<f64>, start: &Mat<f64>) {
        let (k, n) = (w.nrows(), w.ncols());
        let free = Mat::from_fn(k, n, |i, j| if w[(i, j)] == 0.0 { 0.0 } else { 1.0 });
        let masked = |of: Mat<f64>| Mat::from_fn(k, n, |i, j| of[(i, j)] * free[(i, j)]);
        let scaled = |of: &Mat<f64>| Mat::from_fn(k, n, |i, j| of[(i, j)] / self.gram[(i, i)]);
        let dots = |a: &Mat<f64>, b: &Mat<f64>| -> Vec<f64> {
            (0..n).map(|j| (0..k).map(|i| a[(i, j)] * b[(i, j)]).sum()).collect()
        };
        let share = |a: &[f64], b: &[f64]| -> Vec<f64> {
            a.iter().zip(b).map(|(a, b)| if *b > 0.0 { a / b } else { 0.0 }).collect()
        };
        let mut rest = masked(&self.gram * (start - &*w));
        let mut step = scaled(&rest);
        let mut size = dots(&rest, &step);
        for _ in 0..STEPS {
            let moved = masked(&self.gram * &step);
            let length = share(&size, &dots(&step, &moved));
            *w = Mat::from_fn(k, n, |i, j| w[(i, j)] + length[j] * step[(i, j)]);
            rest = Mat::from_fn(k, n, |i, j| rest[(i, j)] - length[j] * moved[(i, j)]);
            let next = scaled(&rest);
            let next_size = dots(&rest, &next);
            let turn = share(&next_size, &size);
            step = Mat::from_fn(k, n, |i, j| next[(i, j)] + turn[j] * step[(i, j)]);
            size = next_size;
        }
    }

    /// The weights of one output.
    fn column(&self, mut w: Vec<f64>, sparsity: Sparsity, importance: Importance, refit: bool) -> Vec<f64> {
        let (window, zeros) = match sparsity {
            Sparsity::Share(share) => (WINDOW, share),
            Sparsity::Pattern { zeros, of } => (of, zeros as f64 / of as f64),
        };
        for start in (0..w.len()).step_by(window) {
            let end = (start + window).min(w.len());
            let mut order: Vec<usize> = (start..end).collect();
            let missed: Vec<f64> = order.iter().map(|i| self.missed(w[*i], *i, importance)).collect();
            order.sort_by(|a, b| missed[a - start].total_cmp(&missed[b - start]).then(a.cmp(b)));
            order.truncate((zeros * (end - start) as f64).round() as usize);
            order.sort_unstable();
            for i in order {
                if refit {
                    let row = &self.upper[i * self.k..(i + 1) * self.k];
                    let error = w[i] / row[i];
                    w.iter_mut().zip(row).skip(i + 1).for_each(|(w, u)| *w -= error * u);
                }
                w[i] = 0.0;
            }
        }
        w
    }

    fn missed(&self, w: f64, i: usize, importance: Importance) -> f64 {
        match importance {
            Importance::Reconstruction => (w / self.upper[i * self.k + i]).abs(),
            Importance::Activation => w.abs() * self.sizes[i],
            Importance::Magnitude => w.abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::normal::Sums;
    use super::*;

    /// Channels 0 and 1 are nearly the same, 2 and 3 stand alone.
    fn factor() -> Factor {
        let mut sums = Sums::new(4, 0);
        for i in 0..997 {
            let x = |m: usize| (i * m % 13) as f32 - 6.0;
            sums.add(&[x(3), x(3) + 0.01 * x(7), x(5), x(11)], &[]).unwrap();
        }
        Factor::of(&sums.problem(&[]).unwrap()).unwrap()
    }

    const TWO_OF_FOUR: Sparsity = Sparsity::Pattern { zeros: 2, of: 4 };

    #[test]
    fn what_a_weight_stood_for_is_taken_over() {
        let made = factor().sparse(&[1.0, 1.0, 0.1, 2.0], 1, TWO_OF_FOUR, Importance::Reconstruction, true).unwrap();
        assert!(made[0] == 0.0 && made[2] == 0.0 && (made[1] - 2.0).abs() < 0.05, "{made:?}");
        let plain = factor().sparse(&[1.0, 1.0, 0.1, 2.0], 1, TWO_OF_FOUR, Importance::Magnitude, false).unwrap();
        assert_eq!(plain, [0.0, 1.0, 0.0, 2.0]);
    }

    #[test]
    fn the_pattern_is_told_from_what_only_has_as_many_zeros() {
        assert!(TWO_OF_FOUR.holds(&[0i8, 3, 0, 4], 1));
        assert!(TWO_OF_FOUR.holds(&[0i8, 1, 2, 0, 0, 3, 4, 0], 2));
        assert!(!TWO_OF_FOUR.holds(&[0i8, 0, 0, 1, 2, 3, 4, 0], 1));
        assert!(
            Sparsity::Share(0.5).holds(&[0.0, 0.0, 1.0, 2.0], 1)
                && !Sparsity::Share(0.6).holds(&[0.0, 0.0, 1.0, 2.0, 3.0], 1)
        );
    }

    #[test]
    fn sparsity_is_a_share_or_a_pattern() {
        assert_eq!("2:4".parse::<Sparsity>().unwrap(), TWO_OF_FOUR);
        assert_eq!("0.5".parse::<Sparsity>().unwrap(), Sparsity::Share(0.5));
        for wrong in ["1", "-0.1", "NaN", "3:4", "half"] {
            assert!(wrong.parse::<Sparsity>().is_err(), "{wrong}");
        }
    }
}
