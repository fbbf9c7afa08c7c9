//! Sums, products and scalings: the merge of adapters.

use ndarray::{ArrayView2, ArrayViewMut2, linalg::general_mat_mul};

use super::computed::Computed;
use super::elements::{describe, largest_bits};
use super::region::Region;
use super::svd::{self, Factors};
use super::{DType, Expr, Weight};
use crate::error::{Error, Result};

/// How many elements of a merged weight are worked on at a time, so that all its changes meet it in the cache.
const BLOCK: usize = 1 << 17;

impl Weight {
    /// `self + scale · (b · a)`, in FP32. Fails where the shapes do not fit.
    pub fn lora(&self, a: &Weight, b: &Weight, scale: f32) -> Result<Weight> {
        let [n, k] = self.matrix("lora")?;
        let ([rank, ak], [bn, brank]) = (a.matrix("lora A")?, b.matrix("lora B")?);
        if ak != k || bn != n || rank != brank {
            return Err(Error::bad_input(format!(
                "LoRA factors A [{rank}, {ak}] and B [{bn}, {brank}] do not fit a weight of shape [{n}, {k}]"
            )));
        }
        let [base, a, b] = [self, a, b].map(|w| w.cast(DType::F32));
        Ok(Weight::new(DType::F32, vec![n, k], Expr::Lora { base, a, b, scale }))
    }

    /// `self · right`, in FP32.
    pub fn product(&self, right: &Weight) -> Result<Weight> {
        let ([n, inner], [rows, k]) = (self.matrix("a product")?, right.matrix("a product")?);
        if inner != rows {
            return Err(self.mismatch(right, "cannot be multiplied"));
        }
        Ok(Weight::new(DType::F32, vec![n, k], Expr::Product(self.cast(DType::F32), right.cast(DType::F32))))
    }

    /// `Σ c · x`, in FP32, over terms of one shape. `sum(sum(w, −c · l), c · l) = w` for literals `l` of the same numbers: one
    /// that is taken away and added again is not rounded twice.
    pub fn sum(terms: Vec<(f32, Weight)>) -> Result<Weight> {
        let (shape, terms) = of_one_shape(terms)?;
        if let [(1.0, first), (c, added)] = terms.as_slice()
            && let Expr::Sum(before) = first.expr()
            && let [(1.0, whole), (d, taken)] = before.as_slice()
            && *d == -c
            && same_literals(added, taken)
        {
            return Ok(whole.clone());
        }
        Ok(Weight::new(DType::F32, shape, Expr::Sum(terms)))
    }

    /// `self · other` element by element, in FP32.
    pub fn times(&self, other: &Weight) -> Result<Weight> {
        if self.shape() != other.shape() {
            return Err(self.mismatch(other, "cannot be multiplied element by element"));
        }
        let expr = Expr::Times(self.cast(DType::F32), other.cast(DType::F32));
        Ok(Weight::new(DType::F32, self.shape().to_vec(), expr))
    }

    /// The Kronecker product of two matrices, in FP32.
    pub fn kron(&self, right: &Weight) -> Result<Weight> {
        let ([a, b], [c, d]) = (self.matrix("a Kronecker product")?, right.matrix("a Kronecker product")?);
        let shape = a.checked_mul(c).zip(b.checked_mul(d)).filter(|(n, k)| n.checked_mul(*k).is_some());
        let (n, k) = shape.ok_or_else(|| Error::bad_input("a Kronecker product whose size overflows"))?;
        Ok(Weight::new(DType::F32, vec![n, k], Expr::Kron(self.cast(DType::F32), right.cast(DType::F32))))
    }

    /// Every slice along `axis` times its number of `by`, in FP32.
    pub fn scale(&self, by: &Weight, axis: usize) -> Result<Weight> {
        self.one_for_each(by, axis)?;
        let (of, by) = (self.cast(DType::F32), by.cast(DType::F32));
        Ok(Weight::new(DType::F32, self.shape().to_vec(), Expr::Scale { of, by, axis }))
    }

    /// Rows (`axis` 0) or columns (1), each times its entry of `norms` over the length of the same one of `like`.
    pub fn renorm(&self, like: &Weight, norms: &Weight, axis: usize) -> Result<Weight> {
        self.matrix("renorm")?;
        self.one_for_each(norms, axis)?;
        if self.shape() != like.shape() {
            return Err(self.mismatch(like, "have no lengths in common"));
        }
        let [of, like, norms] = [self, like, norms].map(|w| w.cast(DType::F32));
        Ok(Weight::new(
            DType::F32,
            self.shape().to_vec(),
            Expr::Renorm { of, like, norms, axis, factors: Computed::default() },
        ))
    }

    /// The nearest matrix of at most that rank, in FP32.
    pub fn low_rank(&self, rank: usize) -> Result<Weight> {
        self.matrix("low rank")?;
        let expr = Expr::LowRank { of: self.cast(DType::F32), rank, found: Computed::default() };
        Ok(Weight::new(DType::F32, self.shape().to_vec(), expr))
    }

    fn one_for_each(&self, by: &Weight, axis: usize) -> Result<()> {
        match (self.shape().get(axis), by.shape()) {
            (Some(n), [count]) if n == count => Ok(()),
            _ => Err(self.mismatch(by, &format!("do not fit along dimension {axis}"))),
        }
    }

    fn mismatch(&self, other: &Weight, how: &str) -> Error {
        Error::bad_input(format!("{} and {} {how}", self.ty(), other.ty()))
    }
}

/// Factors, and the weights that they multiply.
pub(super) type Terms = Vec<(f32, Weight)>;

/// The terms in FP32, if there are any and they have one shape.
pub(super) fn of_one_shape(terms: Terms) -> Result<(Vec<usize>, Terms)> {
    let (_, first) = terms.first().ok_or_else(|| Error::bug("a sum of nothing"))?;
    let shape = first.shape().to_vec();
    if let Some((_, other)) = terms.iter().find(|(_, weight)| weight.shape() != shape) {
        return Err(first.mismatch(other, "cannot be added"));
    }
    Ok((shape, terms.into_iter().map(|(c, weight)| (c, weight.cast(DType::F32))).collect()))
}

/// Merges a chain of low-rank changes, block of rows after block of rows.
pub(super) fn lora(weight: &Weight, at: &Region) -> Result<Vec<f32>> {
    let (mut changes, mut root) = (Vec::new(), weight);
    while let Expr::Lora { base, a, b, scale } = root.expr() {
        let [rank, _] = a.matrix("lora A")?;
        changes.push((b.f32s_of(&at.across(b))?, a.f32s_of(&at.along(a))?, rank, *scale));
        root = base;
    }
    let k = at.columns.len();
    let mut merged = root.f32s_of(at)?.into_owned();
    let height = if changes.len() > 1 { BLOCK.div_ceil(k.max(1)) } else { merged.len().div_ceil(k.max(1)) };
    for (i, block) in merged.chunks_mut((height * k).max(1)).enumerate() {
        for (b, a, rank, scale) in changes.iter().rev() {
            let rows = block.len() / k.max(1);
            let from = i * height * rank;
            let b = b.get(from..from + rows * rank).ok_or_else(|| Error::bug("LoRA's B is cut short"))?;
            multiply(*scale, (b, [rows, *rank]), (a, [*rank, k]), 1.0, block)?;
        }
    }
    finite(merged, weight)
}

type Matrix<'a> = (&'a [f32], [usize; 2]);

/// `into = keep · into + scale · left · right`
fn multiply(scale: f32, left: Matrix, right: Matrix, keep: f32, into: &mut [f32]) -> Result<()> {
    let mismatch = |_| Error::bug("a matrix has another length than its shape");
    let shape = (left.1[0], right.1[1]);
    let mut into = ArrayViewMut2::from_shape(shape, into).map_err(mismatch)?;
    let left = ArrayView2::from_shape((left.1[0], left.1[1]), left.0).map_err(mismatch)?;
    let right = ArrayView2::from_shape((right.1[0], right.1[1]), right.0).map_err(mismatch)?;
    general_mat_mul(scale, &left, &right, keep, &mut into);
    Ok(())
}

/// The values, if the changes left them finite.
fn finite(values: Vec<f32>, weight: &Weight) -> Result<Vec<f32>> {
    match largest_bits(&values) < f32::INFINITY.to_bits() {
        true => Ok(values),
        false => Err(Error::bad_input(format!("{} holds NaN or infinity after the merge", describe(weight)))),
    }
}

pub(super) fn product(left: &Weight, right: &Weight, at: &Region) -> Result<Vec<f32>> {
    let [_, inner] = left.matrix("a product")?;
    let (n, k) = (at.rows.len(), at.columns.len());
    let mut into = vec![0.0; n * k];
    let (left, right) = (left.f32s_of(&at.across(left))?, right.f32s_of(&at.along(right))?);
    multiply(1.0, (&left, [n, inner]), (&right, [inner, k]), 0.0, &mut into)?;
    Ok(into)
}

fn same_literals(one: &Weight, other: &Weight) -> bool {
    matches!((one.expr(), other.expr()), (Expr::Literal(one), Expr::Literal(other)) if one == other)
}

pub(super) fn sum(terms: &[(f32, Weight)], at: &Region) -> Result<Vec<f32>> {
    let Some(((c, first), rest)) = terms.split_first() else { return Ok(Vec::new()) };
    let mut values = first.f32s_of(at)?.into_owned();
    if *c != 1.0 {
        values.iter_mut().for_each(|value| *value *= c);
    }
    for (c, weight) in rest {
        values.iter_mut().zip(weight.f32s_of(at)?.iter()).for_each(|(value, x)| *value += c * x);
    }
    finite(values, first)
}

pub(super) fn times(left: &Weight, right: &Weight, at: &Region) -> Result<Vec<f32>> {
    let mut values = left.f32s_of(at)?.into_owned();
    values.iter_mut().zip(right.f32s_of(at)?.iter()).for_each(|(value, x)| *value *= x);
    Ok(values)
}

pub(super) fn kron(left: &Weight, right: &Weight, at: &Region) -> Result<Vec<f32>> {
    let [c, d] = right.matrix("a Kronecker product")?;
    let [_, b] = left.matrix("a Kronecker product")?;
    let (left, right) = (left.to_f32s()?, right.to_f32s()?);
    let row = |of: &[f32], r: usize, width: usize| of.get(r * width..(r + 1) * width).unwrap_or_default().to_vec();
    let mut values = Vec::with_capacity(at.len());
    for r in at.rows.clone() {
        let (outer, inner) = (row(&left, r / c.max(1), b), row(&right, r % c.max(1), d));
        let whole: Vec<f32> = outer.iter().flat_map(|x| inner.iter().map(move |y| x * y)).collect();
        values.extend_from_slice(whole.get(at.columns.clone()).unwrap_or_default());
    }
    Ok(values)
}

pub(super) fn scale(of: &Weight, by: &Weight, axis: usize, at: &Region) -> Result<Vec<f32>> {
    let mut values = of.f32s_of(at)?.into_owned();
    let by = by.to_f32s()?;
    match axis {
        0 => scale_slices(&mut values, by.get(at.rows.clone()).unwrap_or_default(), at.columns.len()),
        1 if of.shape().len() == 2 => scale_slices(&mut values, by.get(at.columns.clone()).unwrap_or_default(), 1),
        _ if at.has_all_columns(of) => {
            scale_slices(&mut values, &by, of.shape().iter().skip(axis + 1).product());
        }
        _ => return Err(Error::bug("some columns of a tensor of more than two dimensions are scaled")),
    }
    finite(values, of)
}

/// Slices of `inner` elements, each times its number of `by`, over and over.
fn scale_slices(values: &mut [f32], by: &[f32], inner: usize) {
    for outer in values.chunks_mut((by.len() * inner).max(1)) {
        match inner {
            1 => outer.iter_mut().zip(by).for_each(|(value, c)| *value *= c),
            _ => {
                let slices = outer.chunks_mut(inner.max(1)).zip(by);
                slices.for_each(|(slice, c)| slice.iter_mut().for_each(|value| *value *= c));
            }
        }
    }
}

pub(super) fn renorm(weight: &Weight, at: &Region) -> Result<Vec<f32>> {
    let Expr::Renorm { of, like, norms, axis, factors } = weight.expr() else {
        return Err(Error::bug("rows of another expression get new lengths"));
    };
    let mut values = of.f32s_of(at)?.into_owned();
    let factors = factors.get(|| {
        let squares = match *at == Region::whole(of) && of.is(like) {
            true => squares(&values, of.matrix("renorm")?, *axis),
            false => squares_of(like, *axis)?,
        };
        Ok(norms.to_f32s()?.iter().zip(squares).map(|(norm, square)| norm / square.sqrt() as f32).collect())
    })?;
    let (part, inner) = if *axis == 0 { (&at.rows, at.columns.len()) } else { (&at.columns, 1) };
    scale_slices(&mut values, factors.get(part.clone()).unwrap_or_default(), inner);
    finite(values, of)
}

/// The squared length of every row (`axis` 0) or column (1), read by ranges of rows.
fn squares_of(like: &Weight, axis: usize) -> Result<Vec<f64>> {
    let [_, columns] = like.matrix("renorm")?;
    let mut sums = vec![0.0; if axis == 0 { 0 } else { columns }];
    for rows in like.row_ranges() {
        let height = rows.len();
        let part = squares(&like.f32s_of(&Region { rows, columns: 0..columns })?, [height, columns], axis);
        match axis {
            0 => sums.extend(part),
            _ => sums.iter_mut().zip(part).for_each(|(sum, square)| *sum += square),
        }
    }
    Ok(sums)
}

/// The squared length of every row (`axis` 0) or column (1).
fn squares(values: &[f32], [rows, columns]: [usize; 2], axis: usize) -> Vec<f64> {
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    if axis == 0 {
        return values.chunks(columns.max(1)).take(rows).map(|row| sum_of(row, square)).collect();
    }
    let mut sums = vec![0.0; columns];
    for row in values.chunks(columns.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += square(value));
    }
    sums
}

/// Eight sums at a time, because one sum after another would wait for each addition.
fn sum_of(row: &[f32], each: impl Fn(&f32) -> f64) -> f64 {
    let (eights, rest) = row.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for eight in eights {
        sums.iter_mut().zip(eight).for_each(|(sum, value)| *sum += each(value));
    }
    sums.iter().sum::<f64>() + rest.iter().map(&each).sum::<f64>()
}

pub(super) fn low_rank(of: &Weight, rank: usize, found: &Computed<Factors>, at: &Region) -> Result<Vec<f32>> {
    let [n, k] = of.matrix("low rank")?;
    let factors = found.get(|| Ok(svd::nearest(&of.to_f32s()?, [n, k], rank)))?;
    let inner = factors.rank;
    let left = factors.left.get(at.rows.start * inner..at.rows.end * inner).unwrap_or_default();
    let right: Vec<f32> = factors
        .right
        .chunks(k.max(1))
        .flat_map(|row| row.get(at.columns.clone()).unwrap_or_default())
        .copied()
        .collect();
    let mut into = vec![0.0; at.len()];
    multiply(1.0, (left, [at.rows.len(), inner]), (&right, [inner, at.columns.len()]), 0.0, &mut into)?;
    Ok(into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(shape: [usize; 2], values: &[f32]) -> Weight {
        Weight::f32s(shape.to_vec(), values).unwrap()
    }

    fn vector(values: &[f32]) -> Weight {
        Weight::f32s(vec![values.len()], values).unwrap()
    }

    fn floats_of(weight: &Weight) -> Vec<f32> {
        weight.to_f32s().unwrap().into_owned()
    }

    #[test]
    fn lora_adds_the_scaled_product() {
        let merged = weight([2, 3], &[1., 2., 3., 4., 5., 6.])
            .lora(&weight([1, 3], &[1., 0., 2.]), &weight([2, 1], &[10., 20.]), 0.5)
            .unwrap();
        assert_eq!(floats_of(&merged), [6., 2., 13., 14., 5., 26.]);
    }

    #[test]
    fn a_chain_of_changes_is_merged_over_every_block() {
        let (n, k) = (700, 400);
        let base = weight([n, k], &vec![1.0; n * k]);
        let a = |c: f32| weight([1, k], &(0..k).map(|i| c * i as f32).collect::<Vec<_>>());
        let b = weight([n, 1], &(0..n).map(|i| i as f32).collect::<Vec<_>>());
        let merged = base.lora(&a(1.0), &b, 1.0).unwrap().lora(&a(0.5), &b, -2.0).unwrap().lora(&a(2.0), &b, 0.25);
        let values = floats_of(&merged.unwrap());
        for (r, c) in [(0, 0), (1, 1), (330, 399), (699, 1)] {
            assert_eq!(values[r * k + c], 1.0 + 0.5 * (r * c) as f32, "{r}, {c}");
        }
    }

    #[test]
    fn overflowing_products_are_refused() {
        let large = weight([1, 1], &[1e30]);
        let error = weight([1, 1], &[1.0]).lora(&large, &large, 1.0).unwrap().evaluate().err().unwrap();
        assert_eq!(error.message(), "a computed tensor holds NaN or infinity after the merge");
        let error = weight([1, 1], &[0.0]).renorm(&weight([1, 1], &[0.0]), &vector(&[1.0]), 0).unwrap();
        assert_eq!(
            error.evaluate().err().unwrap().message(),
            "a computed tensor holds NaN or infinity after the merge"
        );
    }

    #[test]
    fn products_of_three_kinds() {
        let (l, r) = (weight([2, 2], &[1., 2., 3., 4.]), weight([2, 2], &[0., 1., 1., 0.]));
        assert_eq!(floats_of(&l.product(&r).unwrap()), [2., 1., 4., 3.]);
        assert_eq!(floats_of(&l.times(&r).unwrap()), [0., 2., 3., 0.]);
        let kron = weight([1, 2], &[1., 10.]).kron(&l).unwrap();
        assert_eq!(kron.shape(), [2, 4]);
        assert_eq!(floats_of(&kron), [1., 2., 10., 20., 3., 4., 30., 40.]);
    }

    #[test]
    fn slices_are_scaled_along_either_dimension() {
        let w = weight([2, 3], &[1., 2., 3., 4., 5., 6.]);
        assert_eq!(floats_of(&w.scale(&vector(&[1., 10.]), 0).unwrap()), [1., 2., 3., 40., 50., 60.]);
        assert_eq!(floats_of(&w.scale(&vector(&[1., 10., 0.]), 1).unwrap()), [1., 20., 0., 4., 50., 0.]);
        assert_eq!(floats_of(&vector(&[2., 3.]).scale(&vector(&[5., 7.]), 0).unwrap()), [10., 21.]);
        assert_eq!(
            w.scale(&vector(&[1., 2.]), 1).unwrap_err().message(),
            "f32[2, 3] and f32[2] do not fit along dimension 1"
        );
    }

    #[test]
    fn columns_get_the_given_lengths() {
        let w = weight([2, 2], &[3., 4., 0., 2.]);
        assert_eq!(floats_of(&w.renorm(&w, &vector(&[10., 1.]), 0).unwrap()), [6., 8., 0., 1.]);
        let like = weight([2, 2], &[4., 0., 3., 1.]);
        assert_eq!(floats_of(&w.renorm(&like, &vector(&[5., 3.]), 1).unwrap()), [3., 12., 0., 6.]);
    }

    #[test]
    fn sums_and_the_nearest_of_low_rank() {
        let (a, b) = (weight([2, 2], &[3., 0., 0., 1.]), weight([2, 2], &[1., 0., 0., 1.]));
        let sum = Weight::sum(vec![(2.0, a.clone()), (-1.0, b)]).unwrap();
        assert_eq!(floats_of(&sum), [5., 0., 0., 1.]);
        let nearest = a.low_rank(1).unwrap();
        assert_eq!(floats_of(&nearest), [3., 0., 0., 0.]);
        assert_eq!(floats_of(&nearest), [3., 0., 0., 0.]);
        let error = Weight::sum(vec![(1.0, a), (1.0, vector(&[1.0]))]).unwrap_err();
        assert_eq!(error.message(), "f32[2, 2] and f32[1] cannot be added");
    }
}
