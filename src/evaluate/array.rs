//! The arrays that nodes read and make.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ndarray::{ArcArray, ArrayViewD, IxDyn};

use crate::error::{Error, Result};
use crate::ir::{DType, Weight};

/// An array that several values may share.
pub(super) type Shared<T> = ArcArray<T, IxDyn>;

/// An array of numbers, outermost dimension first. Cloning is cheap.
///
/// Floats of 16 bits are stored as `f32`; `round` rounds them to the narrow type's values.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    F32(Shared<f32>),
    I64(Shared<i64>),
    I32(Shared<i32>),
    U8(Shared<u8>),
    I8(Shared<i8>),
    Bool(Shared<bool>),
}

/// Evaluates an expression for an array of any element type.
macro_rules! for_each_type {
    ($array:expr, $x:ident => $body:expr) => {
        match $array {
            $crate::evaluate::array::Array::F32($x) => $body,
            $crate::evaluate::array::Array::I64($x) => $body,
            $crate::evaluate::array::Array::I32($x) => $body,
            $crate::evaluate::array::Array::U8($x) => $body,
            $crate::evaluate::array::Array::I8($x) => $body,
            $crate::evaluate::array::Array::Bool($x) => $body,
        }
    };
}
pub(super) use for_each_type;

macro_rules! from_shared {
    ($($ty:ty => $variant:ident,)*) => {$(
        impl From<Shared<$ty>> for Array {
            fn from(array: Shared<$ty>) -> Array {
                Array::$variant(array)
            }
        }
    )*};
}

from_shared! {
    f32 => F32,
    i64 => I64,
    i32 => I32,
    u8 => U8,
    i8 => I8,
    bool => Bool,
}

impl Array {
    /// An array of floats. Fails where their number does not match the shape.
    pub fn f32s(shape: &[usize], values: Vec<f32>) -> Result<Array> {
        shared(shape, values).map(Array::F32)
    }

    /// An array of integers. Fails where their number does not match the shape.
    pub fn i64s(shape: &[usize], values: Vec<i64>) -> Result<Array> {
        shared(shape, values).map(Array::I64)
    }

    /// The elements of a constant, floats of any width as `f32`.
    pub(super) fn of(weight: &Weight) -> Result<Array> {
        let shape = weight.shape();
        if matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Array::f32s(shape, weight.to_f32s()?.into_owned());
        }
        let evaluated = weight.evaluate()?;
        let bytes = evaluated.as_bytes();
        Ok(match weight.dtype() {
            DType::I64 => Array::I64(shared(shape, read(bytes, i64::from_le_bytes))?),
            DType::I32 => Array::I32(shared(shape, read(bytes, i32::from_le_bytes))?),
            DType::U8 => Array::U8(shared(shape, bytes.to_vec())?),
            DType::I8 => Array::I8(shared(shape, read(bytes, i8::from_le_bytes))?),
            DType::Bool => Array::Bool(shared(shape, bytes.iter().map(|byte| *byte != 0).collect())?),
            other => return Err(Error::unsupported(format!("the evaluator computes with no {other}"))),
        })
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        for_each_type!(self, x => x.shape())
    }

    /// The elements in order, if they are floats.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        match self {
            Array::F32(x) => Some(x.iter().copied().collect()),
            _ => None,
        }
    }

    /// The size of the elements in memory.
    pub(super) fn bytes(&self) -> usize {
        for_each_type!(self, x => x.len() * size_of_first(x))
    }

    /// Whether the elements are of that type; floats of 16 bits are stored as `f32`.
    pub(super) fn holds(&self, dtype: DType) -> bool {
        match self {
            Array::F32(_) => matches!(dtype, DType::F32 | DType::F16 | DType::BF16),
            Array::I64(_) => dtype == DType::I64,
            Array::I32(_) => dtype == DType::I32,
            Array::U8(_) => dtype == DType::U8,
            Array::I8(_) => dtype == DType::I8,
            Array::Bool(_) => dtype == DType::Bool,
        }
    }

    /// The nearest numbers that a float type of 16 bits has, ties to even; a value beyond its range becomes infinite.
    pub(super) fn round(&mut self, dtype: DType) {
        let Array::F32(x) = self else { return };
        let narrow: fn(&mut [f32]) = match dtype {
            DType::F16 => through::<f16>,
            DType::BF16 => through::<bf16>,
            _ => return,
        };
        *x = standard(std::mem::take(x));
        if let Some(values) = x.as_slice_mut() {
            narrow(values);
        }
    }
}

fn size_of_first<T>(_: &Shared<T>) -> usize {
    std::mem::size_of::<T>()
}

/// Replaces floats by those that `T` has.
fn through<T: Copy + Default>(values: &mut [f32])
where
    [T]: HalfFloatSliceExt,
{
    let mut narrow = [T::default(); 1024];
    for chunk in values.chunks_mut(narrow.len()) {
        let narrow = &mut narrow[..chunk.len()];
        narrow.convert_from_f32_slice(chunk);
        narrow.convert_to_f32_slice(chunk);
    }
}

fn read<T, const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| one(*chunk)).collect()
}

/// An array in the order of its elements.
pub(super) fn shared<T>(shape: &[usize], values: Vec<T>) -> Result<Shared<T>> {
    let count = values.len();
    ArcArray::from_shape_vec(IxDyn(shape), values)
        .map_err(|_| Error::bug(format!("{count} elements do not fill the shape {shape:?}")))
}

/// The same array, its elements one after another in memory.
pub(super) fn standard<T: Clone>(x: Shared<T>) -> Shared<T> {
    if x.is_standard_layout() { x } else { x.as_standard_layout().into_owned().into_shared() }
}

/// The elements of an array that [`standard`] gave.
pub(super) fn elements<T>(x: &Shared<T>) -> Result<&[T]> {
    x.as_slice().ok_or_else(|| Error::bug("an array is not in the order of its elements"))
}

/// The array stretched to a shape by the rule of NumPy.
pub(super) fn stretched<'a, T>(x: &'a Shared<T>, shape: &[usize]) -> Result<ArrayViewD<'a, T>> {
    x.broadcast(IxDyn(shape)).ok_or_else(|| misfit(x.shape(), shape))
}

/// The shape to which two arrays stretch.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).and_then(|i| dims.get(i).copied());
    (0..rank)
        .map(|i| match (at(a, i).unwrap_or(1), at(b, i).unwrap_or(1)) {
            (a, b) if a == b => Ok(a),
            (1, n) | (n, 1) => Ok(n),
            _ => Err(misfit(a, b)),
        })
        .collect()
}

/// The error of two shapes that do not go together.
pub(super) fn misfit(a: &[usize], b: &[usize]) -> Error {
    Error::bad_input(format!("arrays of the shapes {a:?} and {b:?} do not fit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_16_bits_are_rounded_to_the_nearest_and_overflow_to_infinity() {
        let values =
            vec![1.0, 1.0 + 0.5f32.powi(11), 1.0 + 3.0 * 0.5f32.powi(11), 65_504.0, 65_519.0, 65_520.0, -1e6, 6e-8];
        let mut x = Array::f32s(&[8], values).unwrap();
        x.round(DType::F16);
        // 1 + 2⁻¹¹ and 1 + 3·2⁻¹¹ are halfway between two neighbours: the even one is taken.
        let even = 1.0 + 2.0 * 0.5f32.powi(10);
        let smallest = 0.5f32.powi(24);
        assert_eq!(
            x.to_f32s().unwrap(),
            [1.0, 1.0, even, 65_504.0, 65_504.0, f32::INFINITY, f32::NEG_INFINITY, smallest]
        );
        let mut x = Array::f32s(&[2], vec![70_000.0, f32::MAX]).unwrap();
        x.round(DType::BF16);
        assert_eq!(x.to_f32s().unwrap(), [70_144.0, f32::INFINITY]);
    }

    #[test]
    fn a_transposed_array_is_rounded_too() {
        let x = ArcArray::from_shape_vec(IxDyn(&[2, 2]), vec![1e6f32, 1.0, 2.0, 3.0]).unwrap();
        let mut x = Array::F32(x.permuted_axes(IxDyn(&[1, 0])));
        x.round(DType::F16);
        assert_eq!(x.to_f32s().unwrap(), [f32::INFINITY, 2.0, 1.0, 3.0]);
    }

    #[test]
    fn shapes_stretch_by_the_rule_of_numpy() {
        assert_eq!(broadcast(&[2, 1, 3], &[4, 1]).unwrap(), [2, 4, 3]);
        assert_eq!(broadcast(&[], &[4, 1]).unwrap(), [4, 1]);
        let said = broadcast(&[2], &[3]).unwrap_err();
        assert_eq!(said.message(), "arrays of the shapes [2] and [3] do not fit");
    }
}
