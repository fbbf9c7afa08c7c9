//! Makes weights: checks shapes and keeps expressions in their normal form.

use std::ops::Range;

use super::elements::describe;
use super::{Blob, DType, Expr, TensorType, Weight, byte_len};
use crate::error::{Error, Result, printable};

impl Weight {
    /// A tensor of a file. Fails where the data's length does not match the type.
    pub fn source(name: impl Into<String>, dtype: DType, shape: Vec<usize>, data: Option<Blob>) -> Result<Weight> {
        let name = name.into();
        let expected = byte_len(dtype, &shape)
            .ok_or_else(|| Error::bad_input(format!("tensor `{}`: its size overflows", printable(&name))))?;
        if let Some(blob) = &data
            && blob.len() != expected
        {
            return Err(Error::bad_input(format!(
                "tensor `{}` holds {} bytes, but {} needs {expected}",
                printable(&name),
                blob.len(),
                TensorType::new(dtype, shape)
            )));
        }
        Ok(Weight::new(dtype, shape, Expr::Source { name, data }))
    }

    /// 64-bit integers.
    pub fn i64s(shape: Vec<usize>, values: &[i64]) -> Result<Weight> {
        Weight::literal(DType::I64, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// 32-bit integers.
    pub fn i32s(shape: Vec<usize>, values: &[i32]) -> Result<Weight> {
        Weight::literal(DType::I32, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// 32-bit floats.
    pub fn f32s(shape: Vec<usize>, values: &[f32]) -> Result<Weight> {
        Weight::literal(DType::F32, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// A single float of the given floating-point type.
    pub fn scalar(dtype: DType, value: f32) -> Result<Weight> {
        Ok(Weight::f32s(vec![], &[value])?.cast(dtype))
    }

    /// Elements as little-endian bytes.
    pub fn literal(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Weight> {
        if byte_len(dtype, &shape) != Some(bytes.len()) {
            return Err(Error::bug(format!(
                "a literal of {} bytes cannot be {}",
                bytes.len(),
                TensorType::new(dtype, shape)
            )));
        }
        Ok(Weight::new(dtype, shape, Expr::Literal(bytes)))
    }

    /// `transpose(transpose(w)) = w`
    pub fn transpose(&self) -> Result<Weight> {
        if let Expr::Transpose(inner) = self.expr() {
            return Ok(inner.clone());
        }
        let [rows, columns] = self.matrix("transpose")?;
        Ok(Weight::new(self.dtype(), vec![columns, rows], Expr::Transpose(self.clone())))
    }

    /// `cast(w: T, T) = w` · `cast(cast(w: T, f32), T) = w` for T of 16 bits · `cast(transpose(w)) = transpose(cast(w))`
    pub fn cast(&self, dtype: DType) -> Weight {
        if dtype == self.dtype() {
            return self.clone();
        }
        if let Expr::Cast(narrow) = self.expr()
            && self.dtype() == DType::F32
            && narrow.dtype() == dtype
            && matches!(dtype, DType::F16 | DType::BF16)
        {
            return narrow.clone();
        }
        if let Expr::Transpose(inner) = self.expr() {
            let cast = inner.cast(dtype);
            return Weight::new(dtype, self.shape().to_vec(), Expr::Transpose(cast));
        }
        Weight::new(dtype, self.shape().to_vec(), Expr::Cast(self.clone()))
    }

    /// `concat_1(transpose(w)…) = transpose(concat_0(w…))`
    pub fn concat(axis: usize, parts: Vec<Weight>) -> Result<Weight> {
        let first = parts.first().ok_or_else(|| Error::bug("a concatenation of nothing"))?;
        let fits = |part: &Weight| {
            part.dtype() == first.dtype()
                && part.shape().len() == first.shape().len()
                && part.shape().iter().zip(first.shape()).enumerate().all(|(i, (a, b))| i == axis || a == b)
        };
        if axis >= first.shape().len() || !parts.iter().all(fits) {
            let types: Vec<String> = parts.iter().map(|part| part.ty().to_string()).collect();
            return Err(Error::bad_input(format!("cannot join {} along dimension {axis}", types.join(", "))));
        }
        let operands: Option<Vec<Weight>> = parts
            .iter()
            .map(|part| match part.expr() {
                Expr::Transpose(inner) => Some(inner.clone()),
                _ => None,
            })
            .collect();
        if let Some(operands) = operands {
            return Weight::concat(1 - axis, operands)?.transpose();
        }
        let mut shape = first.shape().to_vec();
        if let Some(size) = shape.get_mut(axis) {
            let sizes = parts.iter().filter_map(|part| part.shape().get(axis));
            *size = sizes
                .copied()
                .try_fold(0, usize::checked_add)
                .ok_or_else(|| Error::bad_input("a concatenation whose size overflows"))?;
        }
        Ok(Weight::new(first.dtype(), shape, Expr::Concat { axis, parts }))
    }

    /// The same elements in another shape; only of tensors of files and of literals. Packed ones
    /// take few other shapes. `reshape(cast(w)) = cast(reshape(w))`
    pub fn reshape(&self, shape: Vec<usize>) -> Result<Weight> {
        if byte_len(self.dtype(), &shape) != Some(self.byte_len()) {
            return Err(Error::bad_input(format!("{} cannot take the shape {shape:?}", self.ty())));
        }
        match self.expr() {
            Expr::Source { name, data } => Weight::source(name, self.dtype(), shape, data.clone()),
            Expr::Literal(bytes) => Weight::literal(self.dtype(), shape, bytes.clone()),
            Expr::Cast(inner) => Ok(inner.reshape(shape)?.cast(self.dtype())),
            Expr::Packed { packing, parts } if !self.is_quantized() => {
                let parts = parts.iter().map(|part| part.reshape(shape.clone())).collect::<Result<_>>()?;
                Weight::packed(*packing, parts)
            }
            Expr::Packed { packing, parts } => {
                let packing = packing.reshaped(self.shape(), &shape).ok_or_else(|| {
                    let name = describe(self);
                    Error::unsupported(format!("{name} is packed as {packing} and cannot take the shape {shape:?}"))
                })?;
                let weight = Weight::packed(packing, parts.clone())?;
                match weight.shape() == shape {
                    true => Ok(weight),
                    false => Err(Error::bad_input(format!("{} cannot take the shape {shape:?}", self.ty()))),
                }
            }
            _ => Err(Error::bug("only leaves of an expression are reshaped")),
        }
    }

    /// The rows `at`, each named once, replaced by those of `rows`; in FP32.
    pub fn replace_rows(&self, at: Vec<usize>, rows: &Weight) -> Result<Weight> {
        let ([n, k], [count, width]) = (self.matrix("rows")?, rows.matrix("rows")?);
        let mut sorted = at.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if let Some(row) = sorted.last().filter(|row| **row >= n) {
            return Err(Error::bad_input(format!("there is no row {row} in a weight of shape [{n}, {k}]")));
        }
        if sorted.len() != at.len() || at.len() != count || width != k {
            return Err(Error::bad_input(format!(
                "{count} rows of {width} cannot replace {} rows of a weight of shape [{n}, {k}]",
                sorted.len()
            )));
        }
        let (of, rows) = (self.cast(DType::F32), rows.cast(DType::F32));
        Ok(Weight::new(DType::F32, vec![n, k], Expr::Rows { of, at, rows }))
    }

    /// The indices `at` of dimension `axis`, in that order. `take_1(transpose(w)) = transpose(take_0(w))`
    pub fn take(&self, axis: usize, at: Vec<usize>) -> Result<Weight> {
        if let Expr::Transpose(inner) = self.expr() {
            return inner.take(1 - axis.min(1), at)?.transpose();
        }
        let mut shape = self.shape().to_vec();
        match shape.get_mut(axis) {
            Some(size) if at.iter().all(|i| i < size) => *size = at.len(),
            _ => {
                let most = at.iter().max().copied().unwrap_or_default();
                return Err(Error::bad_input(format!("{} has no index {most} along dimension {axis}", self.ty())));
            }
        }
        Ok(Weight::new(self.dtype(), shape, Expr::Take { of: self.clone(), axis, at }))
    }

    /// The indices `range` of dimension `axis`.
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Result<Weight> {
        let mut shape = self.shape().to_vec();
        match shape.get_mut(axis) {
            Some(size) if range.start <= range.end && range.end <= *size => *size = range.len(),
            _ => {
                return Err(Error::bad_input(format!(
                    "{} has no indices {}…{} along dimension {axis}",
                    self.ty(),
                    range.start,
                    range.end
                )));
            }
        }
        Ok(Weight::new(self.dtype(), shape, Expr::Slice { of: self.clone(), axis, range }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Weight {
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        Weight::f32s(vec![rows, columns], &values).unwrap()
    }

    #[test]
    fn transpositions_move_outwards_and_cancel() {
        let w = matrix(2, 3);
        assert_eq!(w.transpose().unwrap().transpose().unwrap().shape(), [2, 3]);
        let joined = Weight::concat(1, vec![w.transpose().unwrap(), w.transpose().unwrap()]).unwrap();
        assert_eq!(joined.shape(), [3, 4]);
        assert!(
            matches!(joined.expr(), Expr::Transpose(inner) if matches!(inner.expr(), Expr::Concat { axis: 0, .. }))
        );
    }

    #[test]
    fn widening_is_undone_and_narrowing_is_not() {
        let w = Weight::source("w", DType::F16, vec![2, 3], None).unwrap();
        let back = w.cast(DType::F32).transpose().unwrap().cast(DType::F16).transpose().unwrap();
        assert!(matches!(back.expr(), Expr::Source { .. }));
        assert!(matches!(w.cast(DType::F32).cast(DType::BF16).expr(), Expr::Cast(wide) if wide.dtype() == DType::F32));
        assert!(matches!(matrix(2, 2).cast(DType::F16).cast(DType::F32).expr(), Expr::Cast(_)));
    }

    #[test]
    fn factors_that_do_not_fit_are_refused() {
        let error = matrix(4, 6).lora(&matrix(2, 5), &matrix(4, 2), 1.0).unwrap_err();
        assert_eq!(error.message(), "LoRA factors A [2, 5] and B [4, 2] do not fit a weight of shape [4, 6]");
    }

    #[test]
    fn a_source_whose_size_overflows_is_refused() {
        let error = Weight::source("w", DType::F32, vec![usize::MAX, 2], None).unwrap_err();
        assert_eq!(error.message(), "tensor `w`: its size overflows");
    }

    #[test]
    fn rows_are_replaced_and_slices_cut() {
        let floats = |w: &Weight| w.to_f32s().unwrap().into_owned();
        let w = matrix(3, 2);
        let replaced = w.replace_rows(vec![2, 0], &Weight::f32s(vec![2, 2], &[7., 8., 9., 10.]).unwrap()).unwrap();
        assert_eq!(floats(&replaced), [9., 10., 2., 3., 7., 8.]);
        assert_eq!(floats(&w.slice(0, 1..3).unwrap()), [2., 3., 4., 5.]);
        assert_eq!(floats(&w.slice(1, 1..2).unwrap()), [1., 3., 5.]);
        assert_eq!(floats(&w.take(0, vec![2, 0, 2]).unwrap()), [4., 5., 0., 1., 4., 5.]);
        assert_eq!(floats(&w.transpose().unwrap().take(0, vec![1]).unwrap()), [1., 3., 5.]);
        assert_eq!(floats(&w.reshape(vec![6]).unwrap()), floats(&w));
        let half = Weight::source("w", DType::F16, vec![3, 2], None).unwrap().cast(DType::F32);
        assert_eq!(half.reshape(vec![6]).unwrap().ty().to_string(), "f32[6]");
        assert_eq!(w.cast(DType::F16).reshape(vec![6]).unwrap().ty().to_string(), "f16[6]");
        let message = |refused: Result<Weight>| refused.unwrap_err().message().to_owned();
        assert_eq!(message(w.slice(1, 1..3)), "f32[3, 2] has no indices 1…3 along dimension 1");
        assert_eq!(message(w.take(1, vec![0, 2])), "f32[3, 2] has no index 2 along dimension 1");
        assert_eq!(message(w.replace_rows(vec![3], &matrix(1, 2))), "there is no row 3 in a weight of shape [3, 2]");
        assert_eq!(
            message(w.replace_rows(vec![1, 1], &matrix(2, 2))),
            "2 rows of 2 cannot replace 1 rows of a weight of shape [3, 2]"
        );
        assert_eq!(message(w.reshape(vec![5])), "f32[3, 2] cannot take the shape [5]");
    }
}
