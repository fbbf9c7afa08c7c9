//! Floating point in 16 bits, with islands of 32.
//!
//! `f(x: f32) = cast(f(cast(x)): f16)`; norms stay in 32 bits, because a sum of squares overflows half precision, and
//! so do the residual sums that only norms read, which costs nothing where a kernel does both. So do the layers that
//! [`Half::wide`] names. Where a target multiplies no 32-bit matrices, a linear layer whose sums are too large is
//! `x · w = 2ᵃ⁺ᵇ · cast(2⁻ᵃx · 2⁻ᵇw)`: powers of two change no digit.

use std::collections::{BTreeMap, HashMap};

use half::{bf16, f16};

use super::{Pass, Report};
use crate::error::{Error, Result};
use crate::ir::{Action, DType, Graph, Node, Op, Rewriter, ValueId, Weight, retype};

/// Why a layer stays in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wide {
    /// `keep` holds it in full precision.
    Kept,
    /// Its values leave the range of the 16-bit type.
    Beyond(Magnitudes),
}

/// The largest magnitudes around a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Magnitudes {
    /// Of its operands.
    pub reads: f32,
    /// Of all that is computed inside, its outputs among it.
    pub inside: f32,
    /// Of its outputs.
    pub makes: f32,
    /// The largest value that the 16-bit type holds, with the margin that is left: less than its largest number.
    pub limit: f32,
}

/// The pass, to half precision (`F16`) or `BF16`.
pub struct Half<'a> {
    /// The 16-bit type.
    pub to: DType,
    /// Layers that stay in 32 bits, by the names of their nodes.
    pub wide: &'a BTreeMap<String, Wide>,
    /// Whether the target multiplies 32-bit matrices.
    pub wide_products: bool,
}

/// No layer.
static NONE: BTreeMap<String, Wide> = BTreeMap::new();

impl Half<'static> {
    /// The name of the pass.
    pub const NAME: &'static str = "half";

    /// The pass for a model whose values all fit.
    pub fn to(to: DType) -> Half<'static> {
        Half { to, wide: &NONE, wide_products: true }
    }
}

impl Pass for Half<'_> {
    fn name(&self) -> &'static str {
        Half::NAME
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        let mut narrow = Narrowing { to: self.to, weights: HashMap::new() };
        let graph = retype(graph, |rw, node| {
            report.changed += 1;
            let place = self.place(rw, node);
            let (outputs, why) = match place {
                Place::Inside => (narrow.inside(rw, node)?, None),
                Place::Island => (narrow.island(rw, node)?, None),
                Place::Residual => (narrow.wide(rw, node, rw.name(node))?, None),
                Place::Wide(why) => (narrow.wide(rw, node, rw.name(node))?, Some(kept(why, self.to))),
                Place::Scaled(found) => (narrow.scaled(rw, node, found)?, Some(scaled(found, self.to))),
                Place::Unmet(why) => (narrow.inside(rw, node)?, Some(unmet(why, self.to))),
            };
            report.left.extend(why.map(|why| format!("{}: {why}", rw.name(node))));
            narrow.restore_outputs(rw, node, outputs).map(Action::Replace)
        })?;
        Ok((graph, report))
    }
}

/// The type that a node computes in.
enum Place {
    /// 16 bits.
    Inside,
    /// 32 bits, except for its output.
    Island,
    /// 32 bits, where that costs nothing.
    Residual,
    /// 32 bits, because it has to.
    Wide(Wide),
    /// 16 bits, with powers of two taken off.
    Scaled(Magnitudes),
    /// 16 bits, though it should not.
    Unmet(Wide),
}

impl Half<'_> {
    fn place(&self, rw: &Rewriter, node: &Node) -> Place {
        let wide = self.wide.get(rw.name(node)).copied();
        let usual = match node.op {
            Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::Normalize => Place::Island,
            // Half precision has no thousandth of a turn at large positions.
            Op::GrowingAngles { .. } => Place::Island,
            Op::MeanPool | Op::MeanSqrtLenPool | Op::WeightedMeanPool | Op::MaxPool | Op::LastToken => Place::Island,
            Op::Add if rw.old().feeds_only_norms(node) => return Place::Residual,
            _ => Place::Inside,
        };
        match (usual, wide) {
            (usual, None) => usual,
            // Only the outputs of an island have to fit.
            (Place::Island, Some(Wide::Beyond(found))) if found.makes <= found.limit => Place::Island,
            (_, Some(why)) if self.wide_products || !multiplies(&node.op) => Place::Wide(why),
            (_, Some(Wide::Beyond(found))) if node.op == Op::Linear && rw.constant(node, 1).is_some() => {
                Place::Scaled(found)
            }
            (_, Some(why)) => Place::Unmet(why),
        }
    }
}

/// Whether an operation multiplies matrices of floats.
fn multiplies(op: &Op) -> bool {
    matches!(
        op,
        Op::Linear
            | Op::Attention { .. }
            | Op::DistanceScores { .. }
            | Op::SegmentScores { .. }
            | Op::TokenConv { .. }
            | Op::MatMul
            | Op::WeightQuantLinear
    )
}

fn kept(why: Wide, to: DType) -> String {
    match why {
        Wide::Kept => "it stays in f32 by `keep`".to_owned(),
        Wide::Beyond(found) => format!("it stays in f32, {}", reach(found, to)),
    }
}

fn scaled(found: Magnitudes, to: DType) -> String {
    format!("its products are scaled by a power of two and its output is f32, {}", reach(found, to))
}

fn unmet(why: Wide, to: DType) -> String {
    let why = match why {
        Wide::Kept => "`keep` names it".to_owned(),
        Wide::Beyond(found) => reach(found, to),
    };
    format!("it stays in {to}, for the target multiplies no 32-bit matrices: {why}")
}

fn reach(found: Magnitudes, to: DType) -> String {
    let most = found.inside.max(found.reads);
    let largest = if to == DType::F16 { f16::MAX.to_f32() } else { bf16::MAX.to_f32() };
    format!("its values reach {most:.0}, over the limit of {:.0} ({to} ends at {largest:.0})", found.limit)
}

struct Narrowing {
    to: DType,
    /// 16-bit copies of constants, by the constant of the old graph.
    weights: HashMap<ValueId, ValueId>,
}

impl Narrowing {
    /// A node that computes in 16 bits.
    fn inside(&mut self, rw: &mut Rewriter, node: &Node) -> Result<Vec<ValueId>> {
        let mut operands = Vec::with_capacity(node.inputs.len());
        for (i, input) in node.inputs.iter().enumerate() {
            operands.push(match (input, rw.constant(node, i)) {
                // The steps of 8-bit products stay in 32 bits, in which their sums are.
                (Some(_), Some(_)) if i == 2 && matches!(node.op, Op::StaticQuantLinear { .. }) => {
                    rw.operand(node, i)?
                }
                (Some(id), Some(weight)) if weight.dtype() == DType::F32 => Some(self.weight(rw, *id, weight)),
                _ => match rw.operand(node, i)? {
                    // An output of the graph is wide; inside, it is narrowed again.
                    Some(id) if rw.ty(id).dtype == DType::F32 => {
                        Some(rw.node(&format!("{}.narrow", rw.name(node)), Op::Cast { to: self.to }, &[id])?)
                    }
                    other => other,
                },
            });
        }
        rw.nodes(rw.name(node), node.op.clone(), &operands)
    }

    /// A node that computes in 32 bits with an output of 16.
    fn island(&mut self, rw: &mut Rewriter, node: &Node) -> Result<Vec<ValueId>> {
        let name = rw.name(node);
        let wide = self.wide(rw, node, &format!("{name}.f32"))?;
        wide.into_iter().map(|id| rw.node(name, Op::Cast { to: self.to }, &[id])).collect()
    }

    /// A node that computes in 32 bits.
    fn wide(&mut self, rw: &mut Rewriter, node: &Node, name: &str) -> Result<Vec<ValueId>> {
        let mut operands = Vec::with_capacity(node.inputs.len());
        for i in 0..node.inputs.len() {
            let operand = rw.operand(node, i)?;
            operands.push(match operand {
                Some(id) if rw.ty(id).dtype == self.to => {
                    Some(rw.node(&format!("{name}.wide"), Op::Cast { to: DType::F32 }, &[id])?)
                }
                other => other,
            });
        }
        rw.nodes(name, node.op.clone(), &operands)
    }

    /// A linear layer whose product is in 16 bits, smaller by a power of two, and all that follows in 32.
    fn scaled(&mut self, rw: &mut Rewriter, node: &Node, found: Magnitudes) -> Result<Vec<ValueId>> {
        let name = rw.name(node);
        let at = |suffix: &str| format!("{name}.{suffix}");
        let power = |exponent: i32| Weight::scalar(DType::F32, 2f32.powi(exponent));
        let of_x = exponent(found.reads, found.limit);
        let of_w = (exponent(found.inside, found.limit) - of_x).max(0);
        let mut x = rw.required(node, 0)?;
        if of_x > 0 {
            if rw.ty(x).dtype != DType::F32 {
                x = rw.node(&at("x.wide"), Op::Cast { to: DType::F32 }, &[x])?;
            }
            let by = rw.weight(&at("x.by"), power(-of_x)?);
            x = rw.node(&at("x.scaled"), Op::Mul, &[x, by])?;
        }
        if rw.ty(x).dtype == DType::F32 {
            x = rw.node(&at("x.narrow"), Op::Cast { to: self.to }, &[x])?;
        }
        let w = rw.constant(node, 1).ok_or_else(|| Error::bug(format!("the weight of `{name}` is no constant")))?;
        let w = Weight::sum(vec![(2f32.powi(-of_w), w.clone())])?.cast(self.to);
        let w = rw.weight(&at("w.scaled"), w);
        let product = rw.node(&at("narrow"), Op::Linear, &[x, w])?;
        let wide = rw.node(&at("wide"), Op::Cast { to: DType::F32 }, &[product])?;
        let by = rw.weight(&at("by"), power(of_x + of_w)?);
        let output = match rw.operand(node, 2)? {
            None => rw.node(name, Op::Mul, &[wide, by])?,
            Some(bias) => {
                let product = rw.node(&at("product"), Op::Mul, &[wide, by])?;
                rw.node(name, Op::Add, &[product, bias])?
            }
        };
        Ok(vec![output])
    }

    /// Outputs of the graph keep the type they have on the outside.
    fn restore_outputs(&self, rw: &mut Rewriter, node: &Node, outputs: Vec<ValueId>) -> Result<Vec<ValueId>> {
        let pairs: Vec<_> = node.outputs.iter().copied().zip(outputs).collect();
        pairs
            .into_iter()
            .map(|(old, new)| {
                let wanted = rw.old().value(old).ty.dtype;
                if rw.old().outputs().contains(&old) && rw.ty(new).dtype != wanted {
                    let name = format!("{}.wide", rw.old().value(old).name);
                    rw.node(&name, Op::Cast { to: wanted }, &[new])
                } else {
                    Ok(new)
                }
            })
            .collect()
    }

    fn weight(&mut self, rw: &mut Rewriter, old: ValueId, weight: &crate::ir::Weight) -> ValueId {
        let (to, name) = (self.to, &rw.old().value(old).name);
        *self.weights.entry(old).or_insert_with(|| rw.weight(name, weight.cast(to)))
    }
}

/// The lowest power of two by which numbers of a magnitude have to be divided to be within the limit.
fn exponent(magnitude: f32, limit: f32) -> i32 {
    let mut exponent = 0;
    while exponent < 100 && magnitude > limit * 2f32.powi(exponent) {
        exponent += 1;
    }
    exponent
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Half, Magnitudes, Wide};
    use crate::ir::DType;
    use crate::passes::tests::run;

    #[test]
    fn products_are_narrow_and_norms_stay_wide() {
        let before = r#"graph "g" {
  input %x: f32[b, 4]
  weight %w: f32[4, 4] = transpose(source "w" f32[4, 4])
  %product: f32[b, 4] = Linear(%x, %w) @ffn-out/0
  weight %scale: f32[4] = source "scale"
  %norm: f32[b, 4] = LayerNorm {epsilon=1e-12} (%product, %scale) @ffn-norm/0
  %active: f32[b, 4] = Relu(%norm)
  %y: f32[b, 4] = Linear(%active, %w)
  output %y
}
"#;
        assert_eq!(
            run(&Half::to(DType::F16), before).0,
            r#"graph "g" {
  input %x: f32[b, 4]
  %product.narrow: f16[b, 4] = Cast {to=f16} (%x) @ffn-out/0
  weight %w: f16[4, 4] = transpose(cast(f16, source "w" f32[4, 4]))
  %product: f16[b, 4] = Linear(%product.narrow, %w) @ffn-out/0
  %norm.f32.wide: f32[b, 4] = Cast {to=f32} (%product) @ffn-norm/0
  weight %scale: f32[4] = source "scale"
  %norm.f32: f32[b, 4] = LayerNorm {epsilon=1e-12} (%norm.f32.wide, %scale) @ffn-norm/0
  %norm: f16[b, 4] = Cast {to=f16} (%norm.f32) @ffn-norm/0
  %active: f16[b, 4] = Relu(%norm)
  %y.1: f16[b, 4] = Linear(%active, %w)
  %y: f32[b, 4] = Cast {to=f32} (%y.1)
  output %y
}
"#
        );
    }

    #[test]
    fn an_output_keeps_its_type_and_is_narrowed_where_it_is_read_inside() {
        let before = r#"graph "g" {
  input %x: i64[b]
  weight %table: f32[8, 4] = source "table"
  %hidden: f32[b, 4] = Embed(%table, %x)
  %y: f32[b, 4] = Tanh(%hidden)
  output %hidden
  output %y
}
"#;
        assert_eq!(
            run(&Half::to(DType::BF16), before).0,
            r#"graph "g" {
  input %x: i64[b]
  weight %table: bf16[8, 4] = cast(bf16, source "table" f32[8, 4])
  %hidden.1: bf16[b, 4] = Embed(%table, %x)
  %hidden: f32[b, 4] = Cast {to=f32} (%hidden.1)
  %y.narrow: bf16[b, 4] = Cast {to=bf16} (%hidden)
  %y.1: bf16[b, 4] = Tanh(%y.narrow)
  %y: f32[b, 4] = Cast {to=f32} (%y.1)
  output %hidden
  output %y
}
"#
        );
    }

    /// A layer whose values are large, between two that are not.
    const LARGE: &str = r#"graph "g" {
  input %x: f32[b, 4]
  weight %w: f32[4, 4] = source "w"
  weight %bias: f32[4] = source "bias"
  weight %scale: f32[4] = source "scale"
  %active: f32[b, 4] = Relu(%x)
  %large: f32[b, 4] = Linear(%active, %w, %bias) @ffn-out/0
  %norm: f32[b, 4] = LayerNorm {epsilon=1e-12} (%large, %scale) @ffn-norm/0
  %y: f32[b, 4] = Linear(%norm, %w)
  output %y
}
"#;

    fn beyond(reads: f32, makes: f32) -> Wide {
        Wide::Beyond(Magnitudes { reads, inside: makes, makes, limit: 32_752.0 })
    }

    #[test]
    fn layers_that_leave_the_range_stay_wide_and_are_named() {
        let wide =
            BTreeMap::from([("large".to_owned(), beyond(1.0, 158_435.0)), ("norm".to_owned(), beyond(158_435.0, 2.0))]);
        let (after, left) = run(&Half { to: DType::F16, wide: &wide, wide_products: true }, LARGE);
        assert_eq!(
            left,
            ["large: it stays in f32, its values reach 158435, over the limit of 32752 (f16 ends at 65504)"]
        );
        assert_eq!(
            after,
            r#"graph "g" {
  input %x: f32[b, 4]
  %active.narrow: f16[b, 4] = Cast {to=f16} (%x)
  %active: f16[b, 4] = Relu(%active.narrow)
  %large.wide: f32[b, 4] = Cast {to=f32} (%active) @ffn-out/0
  weight %w: f32[4, 4] = source "w"
  weight %bias: f32[4] = source "bias"
  %large: f32[b, 4] = Linear(%large.wide, %w, %bias) @ffn-out/0
  weight %scale: f32[4] = source "scale"
  %norm.f32: f32[b, 4] = LayerNorm {epsilon=1e-12} (%large, %scale) @ffn-norm/0
  %norm: f16[b, 4] = Cast {to=f16} (%norm.f32) @ffn-norm/0
  weight %w.1: f16[4, 4] = cast(f16, source "w" f32[4, 4])
  %y.1: f16[b, 4] = Linear(%norm, %w.1)
  %y: f32[b, 4] = Cast {to=f32} (%y.1)
  output %y
}
"#
        );
    }

    #[test]
    fn without_products_in_32_bits_powers_of_two_are_taken_off_and_put_back() {
        let wide = BTreeMap::from([("large".to_owned(), beyond(40_000.0, 158_435.0))]);
        let (after, left) = run(&Half { to: DType::F16, wide: &wide, wide_products: false }, LARGE);
        assert_eq!(
            left,
            ["large: its products are scaled by a power of two and its output is f32, its values reach 158435, over \
              the limit of 32752 (f16 ends at 65504)"]
        );
        let scaled = r#"
  %large.x.wide: f32[b, 4] = Cast {to=f32} (%active) @ffn-out/0
  weight %large.x.by: f32[] = literal x"0000003f"
  %large.x.scaled: f32[b, 4] = Mul(%large.x.wide, %large.x.by) @ffn-out/0
  %large.x.narrow: f16[b, 4] = Cast {to=f16} (%large.x.scaled) @ffn-out/0
"#;
        assert!(after.contains(scaled), "{after}");
        // 2¹ of the activations and 2² of the weights: 158,435 / 8 fits.
        assert!(after.contains("weight %large.by: f32[] = literal x\"00000041\"\n"), "{after}");
        assert!(after.contains("%large: f32[b, 4] = Add(%large.product, %bias) @ffn-out/0\n"), "{after}");
    }

    #[test]
    fn layers_of_keep_stay_wide_where_the_target_can() {
        let wide = BTreeMap::from([("y".to_owned(), Wide::Kept)]);
        let (after, left) = run(&Half { to: DType::F16, wide: &wide, wide_products: true }, LARGE);
        assert_eq!(left, ["y: it stays in f32 by `keep`"]);
        assert!(after.contains("%y: f32[b, 4] = Linear(%y.wide, %w"), "{after}");
        let (_, left) = run(&Half { to: DType::F16, wide: &wide, wide_products: false }, LARGE);
        assert_eq!(left, ["y: it stays in f16, for the target multiplies no 32-bit matrices: `keep` names it"]);
    }
}
