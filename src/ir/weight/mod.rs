//! Weights as lazy expressions over mapped files.
//!
//! Drawing, merging and quantizing a model only builds these expressions. Nothing is computed before emission, which
//! evaluates one tensor at a time ([`Weight::evaluate`]), so peak memory follows the largest tensor, not the model.
//! The constructors check shapes and keep expressions in a normal form: a transposition stands outside a
//! concatenation, and two transpositions cancel.

mod evaluate;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::types::{DType, TensorType};
use crate::error::{Error, Result, printable};

pub use evaluate::Evaluated;

/// A constant tensor of known shape, computed when it is needed. Cloning is cheap.
#[derive(Clone)]
pub struct Weight(Arc<Inner>);

struct Inner {
    dtype: DType,
    shape: Vec<usize>,
    expr: Expr,
}

/// How the elements of a [`Weight`] come about.
pub enum Expr {
    /// A tensor of a file. Without data it has a type only, as in a graph that was read from its text form.
    Source {
        /// The tensor's name in its file.
        name: String,
        /// Its elements, little-endian.
        data: Option<Blob>,
    },
    /// Elements that kilnc made itself, little-endian.
    Literal(Vec<u8>),
    /// The last two dimensions swapped; the operand has rank 2.
    Transpose(Weight),
    /// The same numbers in another element type.
    Cast(Weight),
    /// The parts side by side along `axis`.
    Concat {
        /// The dimension along which the parts follow each other.
        axis: usize,
        /// What is joined, in order.
        parts: Vec<Weight>,
    },
    /// `base + scale · (b · a)`, the merge of a low-rank adapter (arXiv 2106.09685).
    Lora {
        /// `[n, k]`
        base: Weight,
        /// `[r, k]`
        a: Weight,
        /// `[n, r]`
        b: Weight,
        /// What the product is multiplied by.
        scale: f32,
    },
    /// Symmetric 8-bit values of `of`, one scale per index of `axis`: `round(w / s)`, in −127…127.
    QuantizedValues {
        /// What is quantized, of rank 2.
        of: Weight,
        /// The channel dimension.
        axis: usize,
    },
    /// The scales that belong to [`Expr::QuantizedValues`]: `max |w| / 127` of each channel.
    QuantizedScales {
        /// What is quantized, of rank 2.
        of: Weight,
        /// The channel dimension.
        axis: usize,
    },
}

impl Weight {
    fn new(dtype: DType, shape: Vec<usize>, expr: Expr) -> Weight {
        Weight(Arc::new(Inner { dtype, shape, expr }))
    }

    /// A tensor of a file. Fails where the data is not as long as the type says.
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

    /// Symmetric 8-bit values and their scales, one scale for each index of `axis` of a matrix.
    pub fn quantize(&self, axis: usize) -> Result<(Weight, Weight)> {
        let shape = self.matrix("quantize")?;
        let channels = shape.get(axis).ok_or_else(|| Error::bug("a matrix has the channel axes 0 and 1"))?;
        let of = self.cast(DType::F32);
        let values = Expr::QuantizedValues { of: of.clone(), axis };
        Ok((
            Weight::new(DType::I8, shape.to_vec(), values),
            Weight::new(DType::F32, vec![*channels], Expr::QuantizedScales { of, axis }),
        ))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// Element type and shape.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype(), self.shape().iter().copied())
    }

    /// How the elements come about.
    pub fn expr(&self) -> &Expr {
        &self.0.expr
    }

    /// Length of the elements in bytes. The constructors have checked that it fits.
    pub fn byte_len(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().size()
    }

    /// The name of the first file tensor in the expression, for messages.
    pub fn source_name(&self) -> Option<&str> {
        match self.expr() {
            Expr::Source { name, .. } => Some(name),
            Expr::Literal(_) => None,
            Expr::Transpose(w) | Expr::Cast(w) => w.source_name(),
            Expr::Concat { parts, .. } => parts.first().and_then(Weight::source_name),
            Expr::Lora { base, .. } => base.source_name(),
            Expr::QuantizedValues { of, .. } | Expr::QuantizedScales { of, .. } => of.source_name(),
        }
    }

    fn matrix(&self, what: &str) -> Result<[usize; 2]> {
        <[usize; 2]>::try_from(self.shape()).map_err(|_| {
            let name = self.source_name().map(|name| format!(" of `{}`", printable(name))).unwrap_or_default();
            Error::bad_input(format!("{what}{name} needs a matrix, found {}", self.ty()))
        })
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({}, {:?})", self.ty(), self.source_name())
    }
}

fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |size, dim| size.checked_mul(*dim))
}

/// A range of bytes of something that owns them, such as a mapped file.
#[derive(Clone)]
pub struct Blob {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Blob {
    /// The bytes `range` of `owner`; `None` where the owner has no such range.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Blob> {
        (*owner).as_ref().get(range.clone())?;
        Some(Blob { owner, range })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        (*self.owner).as_ref().get(self.range.clone()).unwrap_or_default()
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
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
}
