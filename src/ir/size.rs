//! Sizes that depend on run-time symbols, in a normal form.
//!
//! A [`Size`] is a sum of products with integer coefficients. A factor is a symbol, which is 0 or more, the
//! floor of another size divided by a number, or the largest of several sizes. Two polynomials that are equal have one
//! form, so `==` compares them. Divisions and maxima are simplified by these identities:
//! - `⌊(d·p + r)/d⌋ = p + ⌊r/d⌋`; coefficients of `r` are in `0 … d − 1`, and of `r` and `−r` the smaller is divided
//! - `⌊g·p/(g·d)⌋ = ⌊p/d⌋`, `⌊(⌊p/e⌋ + r)/d⌋ = ⌊(p + e·r)/(d·e)⌋`, `⌈p/d⌉ = ⌊(p + d − 1)/d⌋`
//! - `max(p + r, q + r) = r + max(p, q)`, `max(c·p, c·q) = c·max(p, q)`, `max(p, p + q) = p + q` where `q` cannot be
//!   negative, `min(p, q) = p + q − max(p, q)`
//!
//! Sizes with divisions or maxima that are equal for another reason may differ in form: `==` is then false, which refuses
//! a graph and never accepts a wrong one.
//!
//! An expression of more than [`LARGEST`] parts and a coefficient beyond 64 bits are errors, so that a file cannot make
//! a size that takes long to compare.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::error::Error;

/// Most terms and factors of an expression, those inside divisions and maxima included.
pub const LARGEST: usize = 256;

/// Why an expression is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// A number in it is beyond 64 bits.
    Overflow,
    /// It has more than [`LARGEST`] parts.
    TooLarge,
    /// It is less than 0.
    Negative,
    /// It is divided by 0.
    Zero,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SizeError::Overflow => f.write_str("a size is beyond 64 bits"),
            SizeError::TooLarge => write!(f, "a size has more than {LARGEST} parts"),
            SizeError::Negative => f.write_str("a size is negative"),
            SizeError::Zero => f.write_str("a size is divided by 0"),
        }
    }
}

impl From<SizeError> for String {
    fn from(error: SizeError) -> String {
        error.to_string()
    }
}

impl From<SizeError> for Error {
    fn from(error: SizeError) -> Error {
        Error::bad_input(error.to_string())
    }
}

type Outcome = Result<Size, SizeError>;

/// An integer expression over symbols.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size {
    /// In the order of [`Term::place`], each product once, none with the coefficient 0.
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Term {
    /// In order; none for the constant.
    factors: Vec<Factor>,
    coefficient: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Factor {
    Symbol(Arc<str>),
    Floor { of: Arc<Size>, by: i64 },
    Max(Arc<[Size]>),
}

impl Factor {
    /// Symbols come first, and of these the past ones: `past_sequence_length + sequence_length`.
    fn place(&self) -> (u8, bool, &str) {
        match self {
            Factor::Symbol(name) => (0, !name.starts_with("past"), name),
            Factor::Floor { .. } => (1, false, ""),
            Factor::Max(_) => (2, false, ""),
        }
    }

    fn weight(&self) -> usize {
        match self {
            Factor::Symbol(_) => 1,
            Factor::Floor { of, .. } => 1 + of.weight(),
            Factor::Max(of) => 1 + of.iter().map(Size::weight).sum::<usize>(),
        }
    }

    fn is_floor(&self) -> bool {
        matches!(self, Factor::Floor { .. })
    }

    /// Whether it is 0 or more for all values of its symbols.
    fn is_natural(&self) -> bool {
        match self {
            Factor::Symbol(_) => true,
            Factor::Floor { of, .. } => of.is_natural(),
            Factor::Max(of) => of.iter().any(Size::is_natural),
        }
    }
}

impl Ord for Factor {
    fn cmp(&self, other: &Factor) -> Ordering {
        self.place().cmp(&other.place()).then_with(|| match (self, other) {
            (Factor::Floor { of: a, by: d }, Factor::Floor { of: b, by: e }) => (a, d).cmp(&(b, e)),
            (Factor::Max(a), Factor::Max(b)) => a.cmp(b),
            _ => Ordering::Equal,
        })
    }
}

impl PartialOrd for Factor {
    fn partial_cmp(&self, other: &Factor) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Term {
    /// Longer products come first, the constant last.
    fn place(&self, other: &Term) -> Ordering {
        other.factors.len().cmp(&self.factors.len()).then_with(|| self.factors.cmp(&other.factors))
    }

    fn is_constant(&self) -> bool {
        self.factors.is_empty()
    }
}

impl From<Factor> for Size {
    fn from(factor: Factor) -> Size {
        Size { terms: vec![Term { factors: vec![factor], coefficient: 1 }] }
    }
}

impl Size {
    /// That number.
    pub(super) fn constant(n: i64) -> Size {
        let term = Term { factors: Vec::new(), coefficient: n };
        Size { terms: if n == 0 { Vec::new() } else { vec![term] } }
    }

    /// The run-time size of that name.
    pub(super) fn symbol(name: Arc<str>) -> Size {
        Factor::Symbol(name).into()
    }

    /// The number, when it is known now.
    pub(super) fn known(&self) -> Option<i64> {
        match self.terms.as_slice() {
            [] => Some(0),
            [only] if only.is_constant() => Some(only.coefficient),
            _ => None,
        }
    }

    /// The symbol, when it is nothing else.
    pub(super) fn lone_symbol(&self) -> Option<&Arc<str>> {
        match self.terms.as_slice() {
            [Term { factors, coefficient: 1 }] => match factors.as_slice() {
                [Factor::Symbol(name)] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// Adds the names of the symbols that it depends on.
    pub(super) fn symbols(&self, into: &mut BTreeSet<Arc<str>>) {
        for factor in self.terms.iter().flat_map(|term| &term.factors) {
            match factor {
                Factor::Symbol(name) => {
                    into.insert(name.clone());
                }
                Factor::Floor { of, .. } => of.symbols(into),
                Factor::Max(of) => of.iter().for_each(|size| size.symbols(into)),
            }
        }
    }

    /// The number that it is where symbols are these; none where one is unknown or a number is beyond 128 bits.
    pub(super) fn value(&self, of: &dyn Fn(&str) -> Option<usize>) -> Option<i128> {
        self.terms.iter().try_fold(0i128, |sum, term| {
            let product = term.factors.iter().try_fold(i128::from(term.coefficient), |product, factor| {
                product.checked_mul(match factor {
                    Factor::Symbol(name) => i128::try_from(of(name)?).ok()?,
                    Factor::Floor { of: size, by } => size.value(of)?.div_euclid(i128::from(*by)),
                    Factor::Max(sizes) => {
                        sizes.iter().map(|size| size.value(of)).collect::<Option<Vec<_>>>()?.into_iter().max()?
                    }
                })
            })?;
            sum.checked_add(product)
        })
    }

    pub(super) fn plus(&self, other: &Size) -> Outcome {
        Size::of(self.terms.iter().chain(&other.terms).cloned().collect())
    }

    pub(super) fn minus(&self, other: &Size) -> Outcome {
        self.plus(&other.scaled(-1)?)
    }

    pub(super) fn times(&self, other: &Size) -> Outcome {
        if self.terms.len().saturating_mul(other.terms.len()) > LARGEST * LARGEST / 4 {
            return Err(SizeError::TooLarge);
        }
        let product = |a: &Term, b: &Term| {
            let mut factors: Vec<Factor> = a.factors.iter().chain(&b.factors).cloned().collect();
            factors.sort();
            let coefficient = a.coefficient.checked_mul(b.coefficient).ok_or(SizeError::Overflow)?;
            Ok(Term { factors, coefficient })
        };
        let pairs = self.terms.iter().flat_map(|a| other.terms.iter().map(move |b| product(a, b)));
        Size::of(pairs.collect::<Result<_, _>>()?)
    }

    /// `⌊self / by⌋`
    pub(super) fn floor_div(&self, by: i64) -> Outcome {
        if by < 1 {
            return Err(SizeError::Zero);
        }
        let (mut outside, mut of, mut by) = (Size::constant(0), self.clone(), by);
        loop {
            if let Some((inner, divisor, rest)) = of.lone_floor()? {
                of = inner.plus(&rest.scaled(divisor)?)?;
                by = by.checked_mul(divisor).ok_or(SizeError::Overflow)?;
                continue;
            }
            outside = outside.plus(&of.map(|c| Some(c.div_euclid(by)))?)?;
            of = of.map(|c| Some(c.rem_euclid(by)))?;
            if of.known().is_some() {
                return Ok(outside);
            }
            match of.lone(Factor::is_floor) {
                Some((_, 1)) => continue,
                Some((floor, c)) if c == by - 1 => {
                    let floor = Size::from(floor.clone());
                    of = of.minus(&floor.scaled(by)?)?;
                    outside = outside.plus(&floor)?;
                    continue;
                }
                _ => {}
            }
            let common = of.terms.iter().filter(|term| !term.is_constant()).fold(by, |g, t| gcd(g, t.coefficient));
            if common == 1 {
                break;
            }
            of = of.map(|c| Some(c.div_euclid(common)))?;
            by /= common;
        }
        // ⌊p/d⌋ = −⌊(d − 1 − p)/d⌋
        let opposite = Size::constant(by - 1).minus(&of)?;
        let turned = opposite.map(|c| Some(c.rem_euclid(by)))?;
        if turned < of {
            return outside.minus(&opposite.floor_div(by)?);
        }
        outside.plus(&Factor::Floor { of: Arc::new(of), by }.into())
    }

    /// `⌈self / by⌉`
    pub(super) fn ceil_div(&self, by: i64) -> Outcome {
        self.plus(&Size::constant(by.saturating_sub(1)))?.floor_div(by)
    }

    /// The largest of several.
    pub(super) fn max(of: &[Size]) -> Outcome {
        let (mut outside, mut all) = (Size::constant(0), of.to_vec());
        // The rest without a common part may be a maximum itself.
        for _ in 0..LARGEST {
            all = largest(&all)?;
            let common = common_part(&all)?;
            outside = outside.plus(&common)?;
            all = all.iter().map(|size| size.minus(&common)).collect::<Result<_, _>>()?;
            if let [only] = all.as_slice() {
                return outside.plus(only);
            }
            if common.terms.is_empty() {
                let factor = all.iter().flat_map(|size| &size.terms).fold(0, |g, term| gcd(g, term.coefficient)).max(1);
                let all: Vec<Size> = all.iter().map(|size| size.map(|c| Some(c / factor))).collect::<Result<_, _>>()?;
                return outside.plus(&Size::from(Factor::Max(all.into())).scaled(factor)?);
            }
        }
        Err(SizeError::TooLarge)
    }

    /// `self / by` where that is a product and goes into every term.
    pub(super) fn quotient(&self, by: &Size) -> Option<Size> {
        let [divisor] = by.terms.as_slice() else { return None };
        let divided = |term: &Term| {
            let mut factors = term.factors.clone();
            for factor in &divisor.factors {
                let place = factors.iter().position(|other| other == factor)?;
                factors.remove(place);
            }
            let whole = term.coefficient.checked_rem(divisor.coefficient)? == 0;
            whole.then(|| term.coefficient.checked_div(divisor.coefficient))?.map(|c| Term { factors, coefficient: c })
        };
        Size::of(self.terms.iter().map(divided).collect::<Option<_>>()?).ok()
    }

    fn scaled(&self, by: i64) -> Outcome {
        self.map(|c| c.checked_mul(by))
    }

    /// The same products with other coefficients.
    fn map(&self, f: impl Fn(i64) -> Option<i64>) -> Outcome {
        let mapped = |term: &Term| {
            let coefficient = f(term.coefficient).ok_or(SizeError::Overflow)?;
            Ok(Term { factors: term.factors.clone(), coefficient })
        };
        Size::of(self.terms.iter().map(mapped).collect::<Result<_, _>>()?)
    }

    /// The normal form of a sum.
    fn of(mut terms: Vec<Term>) -> Outcome {
        terms.sort_by(Term::place);
        let mut sum: Vec<Term> = Vec::with_capacity(terms.len());
        for term in terms {
            match sum.last_mut() {
                Some(last) if last.factors == term.factors => {
                    last.coefficient = last.coefficient.checked_add(term.coefficient).ok_or(SizeError::Overflow)?;
                }
                _ => sum.push(term),
            }
        }
        sum.retain(|term| term.coefficient != 0);
        let size = Size { terms: sum };
        if size.weight() > LARGEST { Err(SizeError::TooLarge) } else { Ok(size) }
    }

    fn weight(&self) -> usize {
        self.terms.iter().map(|term| 1 + term.factors.iter().map(Factor::weight).sum::<usize>()).sum()
    }

    fn is_natural(&self) -> bool {
        self.terms.iter().all(|term| term.coefficient >= 0 && term.factors.iter().all(Factor::is_natural))
    }

    /// `p`, `e` and `r` where it is `⌊p/e⌋ + r` and `r` has no division.
    fn lone_floor(&self) -> Result<Option<(Size, i64, Size)>, SizeError> {
        match self.lone(Factor::is_floor) {
            Some((floor @ Factor::Floor { of, by }, c @ (1 | -1))) => {
                let rest = self.minus(&Size::from(floor.clone()).scaled(c)?)?;
                // −⌊p/e⌋ = ⌊(e − 1 − p)/e⌋
                let of = if c == 1 { Size::clone(of) } else { Size::constant(by - 1).minus(of)? };
                Ok(Some((of, *by, rest)))
            }
            _ => Ok(None),
        }
    }

    /// The compared sizes where it is `c·max(…) + r`, `c` is positive and `r` has no maximum; else itself.
    fn compared(&self) -> Result<Vec<Size>, SizeError> {
        match self.lone(|factor| matches!(factor, Factor::Max(_))) {
            Some((factor @ Factor::Max(of), c @ 1..)) => {
                let rest = self.minus(&Size::from(factor.clone()).scaled(c)?)?;
                of.iter().map(|size| size.scaled(c)?.plus(&rest)).collect()
            }
            _ => Ok(vec![self.clone()]),
        }
    }

    /// The only factor of a kind and its coefficient, where it is a term by itself.
    fn lone(&self, kind: impl Fn(&Factor) -> bool) -> Option<(&Factor, i64)> {
        let mut with = self.terms.iter().filter(|term| term.factors.iter().any(&kind));
        match (with.next()?, with.next()) {
            (Term { factors, coefficient }, None) => match factors.as_slice() {
                [only] => Some((only, *coefficient)),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Those of several that may be the largest, in order. A maximum among them counts as its sizes.
fn largest(of: &[Size]) -> Result<Vec<Size>, SizeError> {
    let mut all = of.iter().map(Size::compared).collect::<Result<Vec<_>, _>>()?.concat();
    if all.iter().map(Size::weight).sum::<usize>() > LARGEST {
        return Err(SizeError::TooLarge);
    }
    all.sort();
    all.dedup();
    let mut largest: Vec<Size> = Vec::with_capacity(all.len());
    for (i, size) in all.iter().enumerate() {
        let less = |other: &Size| other.minus(size).map(|margin| margin.is_natural());
        let others = all.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, other)| less(other));
        if !others.collect::<Result<Vec<_>, _>>()?.contains(&true) {
            largest.push(size.clone());
        }
    }
    Ok(largest)
}

/// For each product, the least coefficient that it has in any of them.
fn common_part(sizes: &[Size]) -> Outcome {
    let products: BTreeSet<&Vec<Factor>> = sizes.iter().flat_map(|s| &s.terms).map(|term| &term.factors).collect();
    let least = |factors: &Vec<Factor>| {
        let of = |size: &Size| size.terms.iter().find(|term| term.factors == *factors).map_or(0, |t| t.coefficient);
        sizes.iter().map(of).min().unwrap_or_default()
    };
    let terms = products.into_iter().map(|factors| Term { factors: factors.clone(), coefficient: least(factors) });
    Size::of(terms.collect())
}

fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    i64::try_from(a).unwrap_or(1)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        for (i, term) in self.terms.iter().enumerate() {
            let sign = match (i, term.coefficient < 0) {
                (0, false) => "",
                (0, true) => "-",
                (_, false) => " + ",
                (_, true) => " - ",
            };
            f.write_str(sign)?;
            let magnitude = term.coefficient.unsigned_abs();
            let shown = magnitude != 1 || term.is_constant();
            if shown {
                write!(f, "{magnitude}")?;
            }
            for (j, factor) in term.factors.iter().enumerate() {
                write!(f, "{}{factor}", if shown || j > 0 { "*" } else { "" })?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Factor::Symbol(name) => write!(f, "{}", Name(name)),
            Factor::Floor { of, by } => {
                let (name, of) = match of.terms.split_last() {
                    Some((last, rest)) if last.is_constant() && last.coefficient == by - 1 => {
                        ("ceil", Size { terms: rest.to_vec() })
                    }
                    _ => ("floor", Size::clone(of)),
                };
                match of.terms.len() {
                    1 => write!(f, "{name}({of}/{by})"),
                    _ => write!(f, "{name}(({of})/{by})"),
                }
            }
            Factor::Max(of) => {
                f.write_str("max(")?;
                for (i, size) in of.iter().enumerate() {
                    write!(f, "{}{size}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
        }
    }
}

/// A symbol; quoted where it has characters that a bare one cannot have.
pub(super) struct Name<'a>(pub &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = self.0.chars().all(is_symbol_char) && self.0.starts_with(|c: char| !c.is_ascii_digit());
        if bare { f.write_str(self.0) } else { write!(f, "{:?}", self.0) }
    }
}

/// Whether a bare symbol can have this character.
pub(super) fn is_symbol_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '?')
}

#[cfg(test)]
mod tests;
