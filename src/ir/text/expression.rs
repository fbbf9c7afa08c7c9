//! The text of a weight's expression, printed and parsed.

use std::fmt::{self, Display, Formatter, Write};
use std::str::FromStr;

use super::parse::{Parsed, Parser};
use crate::digest;
use crate::error::{Error, Result};
use crate::ir::weight::{BlockPart, Blocks, Expr, Int8Range, Majority, Packing, Weight};
use crate::ir::{DType, TensorType};

/// Deepest nesting that is parsed.
const DEEPEST: usize = 64;

/// A weight's expression; operands of file tensors and literals need their type, the outermost one has it before it.
pub(super) struct Expression<'a> {
    weight: &'a Weight,
    typed: bool,
}

impl<'a> Expression<'a> {
    /// An expression after its type.
    pub fn outer(weight: &'a Weight) -> Expression<'a> {
        Expression { weight, typed: false }
    }

    /// An expression that states its type itself.
    pub fn typed(weight: &'a Weight) -> Expression<'a> {
        Expression { weight, typed: true }
    }
}

/// Bytes in hexadecimal. A pruned model's are a hundred million, so they are not formatted one by one.
fn write_hex(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.chunks(4096).try_for_each(|piece| f.write_str(&digest::hex(piece)))
}

impl Display for Expression<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let typed = |f: &mut Formatter<'_>| if self.typed { write!(f, " {}", self.weight.ty()) } else { Ok(()) };
        let inner = |weight| Expression { weight, typed: true };
        match self.weight.expr() {
            Expr::Source { name, .. } => {
                write!(f, "source {name:?}")?;
                typed(f)
            }
            Expr::Literal(bytes) => {
                f.write_str("literal x\"")?;
                write_hex(f, bytes)?;
                f.write_char('"')?;
                typed(f)
            }
            Expr::Packed { packing, parts } => {
                write!(f, "packed({}", packing.name())?;
                parts.iter().try_for_each(|part| write!(f, ", {}", inner(part)))?;
                f.write_char(')')
            }
            Expr::Transpose(w) => write!(f, "transpose({})", inner(w)),
            Expr::Cast(w) => write!(f, "cast({}, {})", self.weight.dtype(), inner(w)),
            Expr::Concat { axis, parts } => {
                write!(f, "concat({axis}")?;
                parts.iter().try_for_each(|part| write!(f, ", {}", inner(part)))?;
                f.write_char(')')
            }
            Expr::Lora { base, a, b, scale } => {
                write!(f, "lora({scale:?}, {}, {}, {})", inner(base), inner(a), inner(b))
            }
            Expr::Product(left, right) => write!(f, "product({}, {})", inner(left), inner(right)),
            Expr::Sum(terms) => {
                f.write_str("sum(")?;
                write_terms(f, terms)
            }
            Expr::Times(left, right) => write!(f, "times({}, {})", inner(left), inner(right)),
            Expr::Kron(left, right) => write!(f, "kron({}, {})", inner(left), inner(right)),
            Expr::Scale { of, by, axis } => write!(f, "scale({axis}, {}, {})", inner(of), inner(by)),
            Expr::Renorm { of, like, norms, axis, .. } => {
                write!(f, "renorm({axis}, {}, {}, {})", inner(of), inner(like), inner(norms))
            }
            Expr::Rows { of, at, rows } => write!(f, "rows({at:?}, {}, {})", inner(of), inner(rows)),
            Expr::Slice { of, axis, range } => {
                write!(f, "slice({axis}, {}, {}, {})", range.start, range.end, inner(of))
            }
            Expr::Take { of, axis, at } => write!(f, "take({axis}, {at:?}, {})", inner(of)),
            Expr::Prune { of, density, seed: None } => write!(f, "prune({density:?}, {})", inner(of)),
            Expr::Prune { of, density, seed: Some(seed) } => write!(f, "drop({density:?}, {seed}, {})", inner(of)),
            Expr::Elect { by, terms } => {
                write!(f, "elect({by}, ")?;
                write_terms(f, terms)
            }
            Expr::LowRank { of, rank, .. } => write!(f, "lowrank({rank}, {})", inner(of)),
            Expr::QuantizedValues { of, axis, range, .. } => {
                write!(f, "quantized{}({axis}, {})", suffix(*range), inner(of))
            }
            Expr::QuantizedScales { of, axis, range } => write!(f, "scales{}({axis}, {})", suffix(*range), inner(of)),
            Expr::Blocks { of, how, part } => {
                let zero = if how.zero_points { "own" } else { "middle" };
                write!(f, "blocks({}, {}, {}, {zero}, {})", part.name(), how.bits, how.size, inner(of))
            }
        }
    }
}

/// The mark of values of 7 bits.
fn suffix(range: Int8Range) -> &'static str {
    match range {
        Int8Range::Full => "",
        Int8Range::Reduced => "7",
    }
}

/// The terms of a sum and the bracket after them.
fn write_terms(f: &mut Formatter<'_>, terms: &[(f32, Weight)]) -> fmt::Result {
    for (i, (c, weight)) in terms.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        write!(f, "{comma}{c:?}, {}", Expression { weight, typed: true })?;
    }
    f.write_char(')')
}

impl Parser<'_> {
    /// A weight's expression. `outer` is its type where the text gave it before the expression.
    pub(super) fn expression(&mut self, outer: Option<&TensorType>, depth: usize) -> Parsed<Weight> {
        if depth > DEEPEST {
            return Err("the expression is nested too deeply".to_owned());
        }
        let kind = self.bare()?;
        match kind {
            "source" => {
                let name = self.string()?;
                let (dtype, shape) = self.leaf_type(outer)?;
                plain(Weight::source(name, dtype, shape, None))
            }
            "literal" => {
                self.word("x")?;
                let hex = self.string()?;
                let (dtype, shape) = self.leaf_type(outer)?;
                let bytes = from_hex(&hex).ok_or("a literal is not hexadecimal")?;
                plain(Weight::literal(dtype, shape, bytes))
            }
            _ => {
                self.expect('(')?;
                let weight = self.compound(kind, depth + 1)?;
                self.expect(')')?;
                Ok(weight)
            }
        }
    }

    /// The content of the brackets of an expression of that kind.
    fn compound(&mut self, kind: &str, depth: usize) -> Parsed<Weight> {
        match kind {
            "transpose" => plain(self.expression(None, depth)?.transpose()),
            "cast" => {
                let dtype = self.value("element type", DType::from_name)?;
                Ok(self.next(depth)?.cast(dtype))
            }
            "packed" => {
                let packing = self.value("packing", Packing::from_name)?;
                let parts = self.rest(depth)?;
                plain(Weight::packed(packing, parts))
            }
            "concat" => {
                let axis = self.integer()?;
                let parts = self.rest(depth)?;
                plain(Weight::concat(axis, parts))
            }
            "lora" => {
                let scale = self.value("scale", parsed)?;
                let (base, a, b) = (self.next(depth)?, self.next(depth)?, self.next(depth)?);
                plain(base.lora(&a, &b, scale))
            }
            "product" => plain(self.expression(None, depth)?.product(&self.next(depth)?)),
            "times" => plain(self.expression(None, depth)?.times(&self.next(depth)?)),
            "kron" => plain(self.expression(None, depth)?.kron(&self.next(depth)?)),
            "sum" => plain(Weight::sum(self.terms(depth)?)),
            "elect" => {
                let by = self.value("majority", parsed::<Majority>)?;
                self.expect(',')?;
                plain(Weight::elect(by, self.terms(depth)?))
            }
            "scale" => {
                let axis = self.integer()?;
                let (of, by) = (self.next(depth)?, self.next(depth)?);
                plain(of.scale(&by, axis))
            }
            "renorm" => {
                let axis = self.integer()?;
                let (of, like, norms) = (self.next(depth)?, self.next(depth)?, self.next(depth)?);
                plain(of.renorm(&like, &norms, axis))
            }
            "rows" => {
                let at = self.indices()?;
                let (of, rows) = (self.next(depth)?, self.next(depth)?);
                plain(of.replace_rows(at, &rows))
            }
            "slice" => {
                let axis = self.integer()?;
                self.expect(',')?;
                let from = self.integer()?;
                self.expect(',')?;
                let to = self.integer()?;
                plain(self.next(depth)?.slice(axis, from..to))
            }
            "take" => {
                let axis = self.integer()?;
                self.expect(',')?;
                let at = self.indices()?;
                plain(self.next(depth)?.take(axis, at))
            }
            "prune" | "drop" => {
                let density = self.value("density", parsed)?;
                let mut seed = None;
                if kind == "drop" {
                    self.expect(',')?;
                    seed = Some(self.value("seed", parsed)?);
                }
                plain(self.next(depth)?.prune(density, seed))
            }
            "lowrank" => {
                let rank = self.integer()?;
                plain(self.next(depth)?.low_rank(rank))
            }
            "quantized" | "scales" | "quantized7" | "scales7" => {
                let axis = self.integer()?;
                let range = if kind.ends_with('7') { Int8Range::Reduced } else { Int8Range::Full };
                let (values, scales) = plain(self.next(depth)?.quantize(axis, range))?;
                Ok(if kind.starts_with("scales") { scales } else { values })
            }
            "blocks" => {
                let part = self.value("part of blocks", BlockPart::from_name)?;
                self.expect(',')?;
                let bits = self.integer()?;
                self.expect(',')?;
                let size = self.integer()?;
                self.expect(',')?;
                let zero_points = self.value("choice of zero points", |word| match word {
                    "own" => Some(true),
                    "middle" => Some(false),
                    _ => None,
                })?;
                plain(self.next(depth)?.in_blocks(Blocks { bits, size, zero_points }, part))
            }
            _ => Err(format!("unknown weight expression `{kind}`")),
        }
    }

    /// A comma and an operand.
    fn next(&mut self, depth: usize) -> Parsed<Weight> {
        self.expect(',')?;
        self.expression(None, depth)
    }

    /// The operands that follow, each after a comma.
    fn rest(&mut self, depth: usize) -> Parsed<Vec<Weight>> {
        let mut operands = Vec::new();
        while self.eat(",") {
            operands.push(self.expression(None, depth)?);
        }
        Ok(operands)
    }

    /// Factors and operands to the end of the brackets.
    fn terms(&mut self, depth: usize) -> Parsed<Vec<(f32, Weight)>> {
        let mut terms = Vec::new();
        loop {
            let c = self.value("factor", parsed)?;
            terms.push((c, self.next(depth)?));
            if !self.eat(",") {
                return Ok(terms);
            }
        }
    }

    fn indices(&mut self) -> Parsed<Vec<usize>> {
        self.expect('[')?;
        let mut indices = Vec::new();
        while !self.eat("]") {
            if !indices.is_empty() {
                self.expect(',')?;
            }
            indices.push(self.integer()?);
        }
        Ok(indices)
    }

    /// A keyword.
    fn value<T>(&mut self, what: &str, read: impl Fn(&str) -> Option<T>) -> Parsed<T> {
        let word = self.bare()?;
        read(word).ok_or_else(|| format!("`{word}` is not a {what}"))
    }

    fn leaf_type(&mut self, outer: Option<&TensorType>) -> Parsed<(DType, Vec<usize>)> {
        let ty = match outer {
            Some(ty) => ty.clone(),
            None => self.ty()?,
        };
        let shape = ty.fixed_shape().ok_or_else(|| format!("a constant cannot be {ty}"))?;
        Ok((ty.dtype, shape))
    }
}

fn parsed<T: FromStr>(word: &str) -> Option<T> {
    word.parse().ok()
}

fn plain<T>(made: Result<T>) -> Parsed<T> {
    made.map_err(|e: Error| e.message().to_owned())
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let digit = |c: u8| (c as char).to_digit(16);
    let bytes = pairs.iter().map(|[high, low]| Some((digit(*high)? * 16 + digit(*low)?) as u8)).collect();
    if rest.is_empty() { bytes } else { None }
}
