//! Channels of one size before they are rounded.
//!
//! `Linear(x, w) = Linear(x · f, w / f)`
//!
//! A few channels of a transformer's activations are far larger than the rest, and one range for all of them wastes
//! most of the 8 bits. Making them smaller and their weights larger costs nothing but where the factor goes
//! (SmoothQuant, arXiv 2211.10438):
//!
//! - the output of attention is linear in the values: `Attention(q, k, v · f) = Attention(q, k, v) · f`, so the factor
//!   goes into the value projection;
//! - a norm that only linear layers read takes the factor into its own scale and bias;
//! - else one `Mul` comes before the linear layers.
//!
//! The factors are chosen for each layer by the error that they leave, not by one exponent for all.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::{Pass, Report};
use crate::calibrate::{Activations, Calibration};
use crate::error::{Error, Result};
use crate::ir::weight::Int8Range;
use crate::ir::{Action, Block, Graph, Node, Op, Rewriter, Role, ValueId, Weight, rewrite};

/// The share of the error that a `Mul` must remove to justify its time.
const LEAST_GAIN_OF_A_NODE: f32 = 0.85;

/// How much of the squared error of nearest rounding is left by rounding with moments, roughly.
const AFTER_ROUNDING: f32 = 0.5;

/// The pass.
pub struct Smooth<'a> {
    /// The collected statistics of activations; those of the smoothed ones are added.
    pub calibration: &'a RefCell<Calibration>,
    /// Layers that stay as they are.
    pub keep: &'a [Role],
    /// The values that weights will be rounded to.
    pub range: Int8Range,
}

impl Pass for Smooth<'_> {
    fn name(&self) -> &'static str {
        "smooth"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        let plans = self.plans(graph, &mut report)?;
        report.changed = plans.len();
        let mut made = HashMap::new();
        let after = rewrite(graph, |rw, node| self.apply(rw, node, &plans, &mut made))?;
        Ok((after, report))
    }
}

/// Where the factors of one value go.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Into columns of the layer that makes attention's values, from this one on.
    Values { layer: ValueId, from: usize },
    /// Into the scale and bias of the norm that makes the value.
    Norm,
    /// Into a separate node.
    Mul,
}

struct Smoothing {
    place: Place,
    factors: Vec<f32>,
}

type Plans = BTreeMap<ValueId, Rc<Smoothing>>;

impl Smooth<'_> {
    /// The factors for every value that gains from them.
    fn plans(&self, graph: &Graph, report: &mut Report) -> Result<Plans> {
        let mut plans = Plans::new();
        for (_, node) in graph.nodes() {
            let Some(x) = smoothable(node) else { continue };
            if plans.contains_key(&x) {
                continue;
            }
            if readers(graph, x).all(|reader| Role::is_in(reader.role, self.keep)) {
                continue;
            }
            let name = &graph.value(x).name;
            match self.plan(graph, x)? {
                Ok(plan) => {
                    plans.insert(x, Rc::new(plan));
                }
                Err(why) => {
                    let line = format!("{name}: {why}");
                    if !report.left.contains(&line) {
                        report.left.push(line);
                    }
                }
            }
        }
        Ok(plans)
    }

    fn plan(&self, graph: &Graph, x: ValueId) -> Result<Result<Smoothing, &'static str>> {
        let calibration = self.calibration.borrow();
        let Some(observed) = calibration.get(&graph.value(x).name) else { return Ok(Err("nothing is known of it")) };
        let Some(place) = place(graph, x) else {
            return Ok(Err("what makes it is not linear, and its channels are grouped instead"));
        };
        let weights: Vec<&Weight> = readers(graph, x).filter_map(|node| graph.weight(node.operand(1)?)).collect();
        let Some((factors, left)) = best_factors(observed, &weights, self.range)? else {
            return Ok(Err("its channels are of one size"));
        };
        let enough = if place == Place::Mul { LEAST_GAIN_OF_A_NODE } else { 1.0 };
        Ok(if left < enough { Ok(Smoothing { place, factors }) } else { Err("it would gain too little") })
    }

    fn apply(
        &self,
        rw: &mut Rewriter,
        node: &Node,
        plans: &Plans,
        made: &mut HashMap<ValueId, ValueId>,
    ) -> Result<Action> {
        let mut inputs = (0..node.inputs.len()).map(|i| rw.operand(node, i)).collect::<Result<Vec<_>>>()?;
        let mut changed = false;
        if let Some((x, plan)) = smoothable(node).and_then(|x| Some((x, plans.get(&x)?.clone()))) {
            self.scale_rows(rw, node, &plan, &mut inputs)?;
            if plan.place == Place::Mul {
                let scaled = self.multiplied(rw, x, &plan, made)?;
                inputs.splice(..1, [Some(scaled)]);
            } else {
                self.note(&rw.old().value(x).name, &rw.old().value(x).name, &plan.factors);
            }
            changed = true;
        }
        for plan in plans.values() {
            let Place::Values { layer, from } = plan.place else { continue };
            if node.outputs.first() == Some(&layer) {
                scale_columns(rw, node, from, &plan.factors, &mut inputs)?;
                changed = true;
            }
        }
        if let Some(plan) = node.outputs.first().and_then(|x| plans.get(x)).filter(|plan| plan.place == Place::Norm) {
            for i in 1..inputs.len() {
                scale_operand(rw, node, i, 0, &plan.factors, &mut inputs)?;
            }
            changed = true;
        }
        match changed {
            false => Ok(Action::Keep),
            true => rw.nodes(rw.name(node), node.op.clone(), &inputs).map(Action::Replace),
        }
    }

    /// `w / f`, a row for each channel.
    fn scale_rows(
        &self,
        rw: &mut Rewriter,
        node: &Node,
        plan: &Smoothing,
        inputs: &mut [Option<ValueId>],
    ) -> Result<()> {
        let inverse: Vec<f32> = plan.factors.iter().map(|f| 1.0 / f).collect();
        scale_operand(rw, node, 1, 0, &inverse, inputs)
    }

    /// `x · f`, built once for all readers.
    fn multiplied(
        &self,
        rw: &mut Rewriter,
        x: ValueId,
        plan: &Smoothing,
        made: &mut HashMap<ValueId, ValueId>,
    ) -> Result<ValueId> {
        if let Some(built) = made.get(&x) {
            return Ok(*built);
        }
        let old = rw.old().value(x).name.clone();
        let name = format!("{old}.smooth");
        let factors = rw.weight(&format!("{name}.factors"), Weight::f32s(vec![plan.factors.len()], &plan.factors)?);
        let from = rw.get(x)?;
        let built = rw.node(&name, Op::Mul, &[from, factors])?;
        made.insert(x, built);
        self.note(&old, &name, &plan.factors);
        Ok(built)
    }

    fn note(&self, old: &str, new: &str, factors: &[f32]) {
        let mut calibration = self.calibration.borrow_mut();
        if let Some(scaled) = calibration.get(old).map(|observed| observed.scaled(factors)) {
            calibration.insert(new, scaled);
        }
    }
}

/// The input of a linear layer of the blocks, if the layer will be quantized.
fn smoothable(node: &Node) -> Option<ValueId> {
    let block = node.role?.part.block();
    (node.op == Op::Linear && matches!(block, Block::Attention | Block::FeedForward)).then(|| node.operand(0))?
}

/// The linear layers that read a value.
fn readers(graph: &Graph, x: ValueId) -> impl Iterator<Item = &Node> {
    graph.consumers(x).filter(move |node| smoothable(node) == Some(x))
}

fn place(graph: &Graph, x: ValueId) -> Option<Place> {
    let node = graph.producer(x)?;
    let only_linear = graph.consumers(x).all(|reader| smoothable(reader) == Some(x)) && !graph.outputs().contains(&x);
    match node.op {
        // Values that heads share, or that leave, keep their size.
        Op::Attention { kv_heads: None, .. } if only_linear && node.outputs.len() == 1 => values(graph, node),
        Op::LayerNorm { .. } if only_linear => Some(Place::Norm),
        Op::LayerNorm { .. } | Op::Slice { .. } => Some(Place::Mul),
        _ => None,
    }
}

/// The layer that makes the values of an attention, and where among its columns they begin.
fn values(graph: &Graph, attention: &Node) -> Option<Place> {
    let v = attention.operand(2)?;
    let only = |id: ValueId| graph.consumers(id).count() == 1 && !graph.outputs().contains(&id);
    if !only(v) {
        return None;
    }
    let maker = graph.producer(v)?;
    let (layer, from) = match &maker.op {
        Op::Split { axis: -1, sizes } => {
            let slot = maker.outputs.iter().position(|id| *id == v)?;
            let from: i64 = sizes.iter().take(slot).sum();
            (maker.operand(0).filter(|id| only(*id))?, usize::try_from(from).ok()?)
        }
        _ => (v, 0),
    };
    let linear = graph.producer(layer).filter(|node| node.op == Op::Linear)?;
    let constant = (1..linear.inputs.len()).filter_map(|i| linear.operand(i)).all(|id| graph.weight(id).is_some());
    constant.then_some(Place::Values { layer, from })
}

fn scale_columns(
    rw: &mut Rewriter,
    node: &Node,
    from: usize,
    factors: &[f32],
    inputs: &mut [Option<ValueId>],
) -> Result<()> {
    let columns = rw.constant(node, 1).and_then(|w| w.shape().get(1).copied()).unwrap_or_default();
    let mut all = vec![1.0; columns];
    all.iter_mut().skip(from).zip(factors).for_each(|(to, f)| *to = *f);
    scale_operand(rw, node, 1, 1, &all, inputs)?;
    scale_operand(rw, node, 2, 0, &all, inputs)
}

/// Scales the constant that operand `i` is by then: one that was scaled before is scaled again.
fn scale_operand(
    rw: &mut Rewriter,
    node: &Node,
    i: usize,
    axis: usize,
    factors: &[f32],
    inputs: &mut [Option<ValueId>],
) -> Result<()> {
    let (Some(slot), Some(old)) = (inputs.get_mut(i), node.operand(i)) else { return Ok(()) };
    let Some(built) = *slot else { return Ok(()) };
    let weight = rw.built(built).ok_or_else(|| Error::bug("a smoothed layer has constant weights"))?;
    let scaled = weight.scale(&Weight::f32s(vec![factors.len()], factors)?, axis)?;
    let name = format!("{}.smooth", rw.old().value(old).name);
    *slot = Some(rw.weight(&name, scaled));
    Ok(())
}

/// The factors with the least error, and which share of the error without any they leave.
fn best_factors(observed: &Activations, weights: &[&Weight], range: Int8Range) -> Result<Option<(Vec<f32>, f32)>> {
    let shape = Shape::of(observed, weights)?;
    let ones = vec![1.0; observed.channels()];
    let plain = shape.error(observed, &ones, range);
    let best = candidates(&observed.magnitudes(), &shape.largest)
        .map(|factors| (shape.error(observed, &factors, range), factors))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    Ok(best.filter(|(error, _)| *error < plain).map(|(error, factors)| (factors, error / plain)))
}

/// Factors to try: the largest channels cut down to the size of another, and SmoothQuant's for several exponents.
fn candidates(magnitudes: &[f32], largest: &[f32]) -> impl Iterator<Item = Vec<f32>> {
    let mut sorted = magnitudes.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let cut = [0.003, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.35, 0.5, 0.7].map(|share| {
        let target = sorted.get((sorted.len() as f32 * share) as usize).copied().unwrap_or_default();
        magnitudes.iter().map(|m| if *m > target && target > 0.0 { target / m } else { 1.0 }).collect::<Vec<f32>>()
    });
    let power = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0f32].map(|alpha| {
        let factor = |(m, w): (&f32, &f32)| {
            let factor = w.max(1e-5).powf(1.0 - alpha) / m.max(1e-5).powf(alpha);
            factor.clamp(1e-4, 1e4)
        };
        let factors: Vec<f32> = magnitudes.iter().zip(largest).map(factor).collect();
        let mean = (factors.iter().map(|f| f.ln()).sum::<f32>() / factors.len().max(1) as f32).exp();
        factors.into_iter().map(|f| f / mean).collect::<Vec<f32>>()
    });
    cut.into_iter().chain(power)
}

/// The statistics that the error depends on, of the weights that read one value side by side.
struct Shape {
    /// `[k]`: the largest magnitude of each row.
    largest: Vec<f32>,
    /// `[k]`: the sum of squares of each row.
    squares: Vec<f32>,
    /// `[k, n]`, absolute.
    rows: Vec<Vec<f32>>,
}

impl Shape {
    fn of(observed: &Activations, weights: &[&Weight]) -> Result<Shape> {
        let k = observed.channels();
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); k];
        for weight in weights {
            let columns = weight.shape().get(1).copied().unwrap_or(1).max(1);
            let values = weight.to_f32s()?;
            rows.iter_mut()
                .zip(values.chunks(columns))
                .for_each(|(row, more)| row.extend(more.iter().map(|w| w.abs())));
        }
        Ok(Shape {
            largest: rows.iter().map(|row| row.iter().copied().fold(0.0, f32::max)).collect(),
            squares: rows.iter().map(|row| row.iter().map(|w| w * w).sum()).collect(),
            rows,
        })
    }

    /// The expected square error of the outputs: the error of rounded inputs through the weights, and that of rounding
    /// the weights does to the inputs.
    fn error(&self, observed: &Activations, factors: &[f32], range: Int8Range) -> f32 {
        let factor = |c: usize| factors.get(c).copied().unwrap_or(1.0);
        let noise = observed.rounding_noise(factor);
        let through: f32 = self.squares.iter().enumerate().map(|(c, s)| s / factor(c).powi(2)).sum();
        let inputs: f32 = observed.moments.diag().iter().enumerate().map(|(c, m)| m * factor(c).powi(2)).sum();
        let mut largest = vec![0.0f32; self.rows.first().map_or(0, Vec::len)];
        for (c, row) in self.rows.iter().enumerate() {
            let inverse = 1.0 / factor(c);
            largest.iter_mut().zip(row).for_each(|(most, w)| *most = most.max(w * inverse));
        }
        let steps: f32 = largest.iter().map(|most| (most / range.largest()).powi(2)).sum();
        noise * through + AFTER_ROUNDING * steps / 12.0 * inputs
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use ndarray::Array2;

    use super::{Int8Range, Smooth};
    use crate::calibrate::{Activations, Calibration, Extremes, Histogram};
    use crate::passes::tests::run;

    /// Knows of values of 4 channels, the first of which reaches 80 and the others 1.
    fn calibration(names: &[&str]) -> RefCell<Calibration> {
        let extremes = Extremes { lowest: vec![-1.0; 4], highest: vec![80.0, 1.0, 1.0, 1.0] };
        let observed = Activations {
            by_text: vec![extremes.clone()],
            extremes,
            moments: Array2::from_diag(&ndarray::arr1(&[6000.0, 0.3, 0.3, 0.3])),
            histogram: Histogram::default(),
        };
        let mut calibration = Calibration::default();
        names.iter().for_each(|name| calibration.insert(*name, observed.clone()));
        RefCell::new(calibration)
    }

    /// `[4, 4]`, all ones.
    const ONES: &str = "0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f\
                        0000803f0000803f0000803f0000803f0000803f0000803f0000803f0000803f";

    fn nodes(graph: &str) -> Vec<&str> {
        graph.lines().map(str::trim).filter(|line| line.starts_with('%')).collect()
    }

    #[test]
    fn a_norm_that_others_read_too_gets_a_separate_node() {
        let before = format!(
            r#"graph "g" {{
  input %x: f32[b, s, 4]
  weight %scale: f32[4] = source "scale"
  %norm: f32[b, s, 4] = LayerNorm {{epsilon=0.1}} (%x, %scale) @attention-norm/0
  weight %w: f32[4, 4] = literal x"{ONES}"
  %inner: f32[b, s, 4] = Linear(%norm, %w) @ffn-in/0
  %y: f32[b, s, 4] = Add(%inner, %norm)
  output %y
}}
"#
        );
        let calibration = calibration(&["norm"]);
        let (after, _) = run(&Smooth { calibration: &calibration, keep: &[], range: Int8Range::Full }, &before);
        assert_eq!(
            nodes(&after),
            [
                "%norm: f32[b, s, 4] = LayerNorm {epsilon=0.1} (%x, %scale) @attention-norm/0",
                "%norm.smooth: f32[b, s, 4] = Mul(%norm, %norm.smooth.factors) @ffn-in/0",
                "%inner: f32[b, s, 4] = Linear(%norm.smooth, %w.smooth) @ffn-in/0",
                "%y: f32[b, s, 4] = Add(%inner, %norm)",
            ]
        );
        let observed = calibration.borrow().get("norm.smooth").unwrap().magnitudes();
        assert!(observed[0] < 40.0 * observed[1], "{observed:?}");
    }

    #[test]
    fn a_norm_that_only_layers_read_takes_the_factors() {
        let before = format!(
            r#"graph "g" {{
  input %x: f32[b, s, 4]
  weight %scale: f32[4] = source "scale"
  weight %bias: f32[4] = source "bias"
  %norm: f32[b, s, 4] = LayerNorm {{epsilon=0.1}} (%x, %scale, %bias) @attention-norm/0
  weight %w: f32[4, 4] = literal x"{ONES}"
  %y: f32[b, s, 4] = Linear(%norm, %w) @ffn-in/0
  output %y
}}
"#
        );
        let (after, _) =
            run(&Smooth { calibration: &calibration(&["norm"]), keep: &[], range: Int8Range::Full }, &before);
        assert_eq!(
            nodes(&after),
            [
                "%norm: f32[b, s, 4] = LayerNorm {epsilon=0.1} (%x, %scale.smooth, %bias.smooth) @attention-norm/0",
                "%y: f32[b, s, 4] = Linear(%norm, %w.smooth) @ffn-in/0",
            ]
        );
    }

    #[test]
    fn attentions_output_takes_factors_from_the_values() {
        let before = format!(
            r#"graph "g" {{
  input %x: f32[b, s, 4]
  weight %wv: f32[4, 4] = literal x"{ONES}"
  weight %bv: f32[4] = source "bv"
  %v: f32[b, s, 4] = Linear(%x, %wv, %bv) @value/0
  %a: f32[b, s, 4] = Attention {{heads=2, scale=0.5}} (%x, %x, %v) @attention/0
  weight %w: f32[4, 4] = literal x"{ONES}"
  %y: f32[b, s, 4] = Linear(%a, %w) @attention-output/0
  output %y
}}
"#
        );
        let (after, left) =
            run(&Smooth { calibration: &calibration(&["a"]), keep: &[], range: Int8Range::Full }, &before);
        assert_eq!(
            nodes(&after),
            [
                "%v: f32[b, s, 4] = Linear(%x, %wv.smooth, %bv.smooth) @value/0",
                "%a: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%x, %x, %v) @attention/0",
                "%y: f32[b, s, 4] = Linear(%a, %w.smooth) @attention-output/0",
            ]
        );
        assert_eq!(left, ["x: nothing is known of it"]);
    }
}
