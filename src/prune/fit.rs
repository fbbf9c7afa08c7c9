//! Cuts blocks one after another, each fitted to the whole model's value there.
//!
//! The layer that reads the rest of a block is fitted by least squares: its addition to the residual of the model
//! that is cut so far has to give the sum that the whole model has there. So every block also repairs the error of the cuts
//! before it have moved.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Request;
use super::blocks::Block;
use super::eliminate::{Order, order};
use super::importance::ranked;
use super::normal::{Problem, RIDGE, Sums};
use super::rows::{Reader, Rows, floats};
use crate::calibrate::{Collection, collect_outputs};
use crate::digest;
use crate::error::{Error, Result};
use crate::ir::{Blob, DType, Graph, Role, ValueId, Weight};
use crate::passes::{ChannelCut, Pass, Prunable, PruneChannels};
use crate::verify::{Verified, verify};

/// The ridges towards the trained weights; texts that are held out decide.
const RIDGES: [f64; 5] = [0.01, 0.03, 0.1, 0.3, 1.0];

/// Every so many texts one is held out.
const HELD: usize = 5;

/// The values of the trained model.
pub struct Whole {
    /// The sums behind every block, and the inputs of its layers.
    rows: Rows,
    /// The names of the sums.
    sums: Vec<String>,
    /// The normal equations of every block.
    pub problems: Vec<Problem>,
    /// The order in which units would go.
    pub orders: Vec<Order>,
}

/// The observed values of a block.
struct Taps {
    /// The reader's input.
    x: ValueId,
    /// The reader's output.
    out: ValueId,
    /// The reader's weight.
    weight: Weight,
    /// The sum with the residual, where there is one.
    residual: Option<(ValueId, ValueId)>,
}

impl Taps {
    fn of(graph: &Graph, role: Role) -> Result<Taps> {
        let found = graph.nodes().filter_map(|(_, node)| Prunable::of(graph, node)?.ok()).find(|b| b.role == role);
        let block = found.ok_or_else(|| Error::bug(format!("{role} is in the graph no more")))?;
        let reader = block.reader;
        let (x, out) = reader.operand(0).zip(reader.outputs.first().copied()).ok_or_else(|| Error::bug("a layer"))?;
        let weight = reader.operand(1).and_then(|id| graph.weight(id)).ok_or_else(|| Error::bug("a layer"))?;
        Ok(Taps { x, out, weight: weight.clone(), residual: block.residual(graph) })
    }
}

impl Whole {
    /// Runs the trained model over the texts. `inputs` are values whose rows are saved too.
    pub fn collect(request: &Request, blocks: &[Block], inputs: &[ValueId]) -> Result<Whole> {
        let graph = request.graph;
        let taps: Vec<Taps> = blocks.iter().map(|block| Taps::of(graph, block.role)).collect::<Result<_>>()?;
        let sum = |tap: &Taps| tap.residual.map_or(tap.out, |(sum, _)| sum);
        let kept: Vec<ValueId> = taps.iter().map(sum).chain(inputs.iter().copied()).collect();
        let observed: Vec<ValueId> = taps.iter().flat_map(|tap| [tap.x, tap.out]).collect();
        let mut sums: Vec<Sums> = blocks.iter().map(|block| Sums::new(channels(block), outputs(block))).collect();
        let rows = Rows::record(request, graph, &kept, &observed, |observed| {
            let pairs = observed.as_chunks::<2>().0;
            sums.iter_mut().zip(pairs).try_for_each(|(sums, [x, out])| sums.add(x, out))
        })?;
        let problems = sums.into_iter().zip(blocks).map(|(mut sums, block)| sums.problem(&block.weight.to_f32s()?));
        let problems: Vec<Problem> = problems.collect::<Result<_>>()?;
        let orders = blocks.iter().zip(&problems).map(|(block, problem)| {
            // The last tenth of the neurons is a case of its own, which no curve shows.
            let most = if block.has_heads() { block.units } else { block.units / 10 * 9 };
            order_of(request, block, problem, most)
        });
        let sums = taps.iter().map(|tap| graph.value(sum(tap)).name.clone()).collect();
        Ok(Whole { orders: orders.collect::<Result<_>>()?, problems, rows, sums })
    }

    /// The values behind block `i`.
    fn sums(&self, i: usize) -> Result<Reader> {
        self.rows.of(self.sums.get(i).ok_or_else(|| Error::bug("every block was observed"))?)
    }

    /// The rows of a value that was requested by [`Whole::collect`].
    pub fn input(&self, name: &str) -> Result<Reader> {
        self.rows.of(name)
    }

    /// Removes the saved rows.
    pub fn forget(self) -> Result<()> {
        self.rows.forget()
    }
}

fn channels(block: &Block) -> usize {
    block.units * block.unit
}

fn outputs(block: &Block) -> usize {
    block.weight.shape().get(1).copied().unwrap_or(0)
}

/// The order in which the units of a block are removed, up to `most`, by the request.
pub fn order_of(request: &Request, block: &Block, problem: &Problem, most: usize) -> Result<Order> {
    match request.spec.importance {
        super::Importance::Reconstruction => order(problem, block.unit, most),
        other => ranked(other, block, problem),
    }
}

/// A block with these of its units, fitted where the request says so.
pub fn cut(request: &Request, block: &Block, problem: &Problem, kept: Vec<usize>, ridge: f64) -> Result<ChannelCut> {
    let at = block.channels(&kept);
    if !request.spec.refit {
        return Ok(ChannelCut { kept, weight: block.weight.take(0, at)?, bias: block.bias.clone() });
    }
    let (weight, bias) = problem.solve(&at, ridge)?;
    let name = block.name();
    Ok(ChannelCut {
        kept,
        weight: fitted(&format!("{name}.fitted"), vec![at.len(), bias.len()], &weight)?,
        bias: Some(fitted(&format!("{name}.fitted.bias"), vec![bias.len()], &bias)?),
    })
}

/// Weights that were fitted, as a constant whose name marks them.
pub fn fitted(name: &str, shape: Vec<usize>, values: &[f32]) -> Result<Weight> {
    let bytes: Vec<u8> = bytemuck::cast_slice(values).to_vec();
    let tag: String = digest::of(&bytes).chars().take(12).collect();
    let length = bytes.len();
    let blob = Blob::new(Arc::new(bytes), 0..length).ok_or_else(|| Error::bug("all bytes are bytes"))?;
    Weight::source(format!("{name}#{tag}"), DType::F32, shape, Some(blob))
}

/// The graph with some of its blocks cut.
pub fn with_cuts(graph: &Verified<Graph>, cuts: &BTreeMap<Role, ChannelCut>) -> Result<Verified<Graph>> {
    verify(PruneChannels { cuts }.run(graph)?.0)
}

/// Cuts block after block, `counts` units of each.
pub fn in_order(
    request: &Request,
    base: &Verified<Graph>,
    blocks: &[Block],
    whole: &Whole,
    counts: &[usize],
) -> Result<BTreeMap<Role, ChannelCut>> {
    let mut cuts = BTreeMap::new();
    let layers: Vec<usize> = blocks.iter().filter_map(|block| block.role.layer).collect();
    let first_dropped = (0..).find(|layer| !layers.contains(layer)).unwrap_or(usize::MAX);
    request.observer.begin("fitting the rest", Some(blocks.len() as u64));
    for ((i, block), count) in blocks.iter().enumerate().zip(counts) {
        request.observer.advance(1);
        // As long as nothing was cut there is nothing to mend.
        let dropped = block.role.layer.is_some_and(|layer| layer > first_dropped);
        if cuts.is_empty() && *count == 0 && !dropped {
            continue;
        }
        if request.spec.refit {
            let behind = Behind::collect(request, &with_cuts(base, &cuts)?, block, whole, i)?;
            let kept = order_of(request, block, &behind.all, *count)?.kept(*count);
            let ridge = behind.ridge(&block.channels(&kept))?;
            cuts.insert(block.role, cut(request, block, &behind.all, kept, ridge)?);
        } else if *count > 0 {
            let problem = whole.problems.get(i).ok_or_else(|| Error::bug("every block was observed"))?;
            let kept = order_of(request, block, problem, *count)?.kept(*count);
            cuts.insert(block.role, cut(request, block, problem, kept, RIDGE)?);
        }
    }
    Ok(cuts)
}

/// The least-squares problem of a block behind those that are changed.
pub struct Behind {
    /// The problem on all texts.
    pub all: Problem,
    /// The same on most texts, and on those that are held out; none, where there are few.
    parts: Option<[Problem; 2]>,
}

impl Behind {
    /// Runs a graph as it is so far up to block `i`.
    pub fn collect(
        request: &Request,
        graph: &Verified<Graph>,
        block: &Block,
        whole: &Whole,
        i: usize,
    ) -> Result<Behind> {
        let taps = Taps::of(graph, block.role)?;
        let residual = taps.residual.map(|(_, residual)| residual);
        let prior = taps.weight.clone();
        let ids: Vec<ValueId> = [Some(taps.x), residual].into_iter().flatten().collect();
        let rows = whole.sums(i)?;
        Behind::of(request, graph, &ids, &prior, rows)
    }

    /// Fits the reader of the first of `ids` so that it makes `rows`, less the second of them where there are two.
    pub fn of(
        request: &Request,
        graph: &Verified<Graph>,
        ids: &[ValueId],
        prior: &Weight,
        mut rows: Reader,
    ) -> Result<Behind> {
        let dims = prior.shape();
        let (k, n) = (dims.first().copied().unwrap_or(0), dims.get(1).copied().unwrap_or(0));
        let [mut most, mut held] = [0, 1].map(|_| Sums::new(k, n));
        collect_outputs(&request.plan(graph), ids, |text, observed| {
            let x = floats(observed.first().ok_or_else(|| Error::bug("a value was not observed"))?)?;
            let mut y = rows.next(x.len() / k.max(1) * n)?;
            if let Some(residual) = observed.get(1) {
                y.iter_mut().zip(floats(residual)?).for_each(|(y, r)| *y -= r);
            }
            let sums = if text % HELD == HELD - 1 { &mut held } else { &mut most };
            sums.add(x, &y)
        })?;
        let prior = prior.to_f32s()?;
        let parts = match request.inputs.len() {
            0..HELD => None,
            _ => Some([most.problem(&prior)?, held.problem(&prior)?]),
        };
        Ok(Behind { all: most.merged(held)?.problem(&prior)?, parts })
    }

    /// The ridge with the least error on the texts that are held out.
    pub fn ridge(&self, at: &[usize]) -> Result<f64> {
        let Some([most, held]) = &self.parts else { return Ok(RIDGE) };
        let mut best = (f64::INFINITY, RIDGE);
        for ridge in RIDGES {
            let (weights, bias) = most.solve(at, ridge)?;
            let error = held.error(at, &weights, &bias);
            if error < best.0 {
                best = (error, ridge);
            }
        }
        Ok(best.1)
    }
}

impl<'a> Request<'a> {
    /// The graph that is run over the texts.
    pub(super) fn plan<'b>(&'b self, graph: &'b Verified<Graph>) -> Collection<'b> {
        Collection { graph, inputs: self.inputs, scratch: self.scratch, progress: &|| {} }
    }
}
