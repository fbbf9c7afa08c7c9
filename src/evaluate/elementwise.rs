//! Operations that work element by element, on operands stretched to one shape.

use ndarray::Zip;

use super::array::{Array, Shared, broadcast, elements, for_each_type, misfit, shared, standard, stretched};
use crate::error::{Error, Result};
use crate::ir::DType;

/// A function of two numbers.
#[derive(Clone, Copy)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Max,
}

/// `a ∘ b`, stretched. Sums and products of integers wrap.
pub(super) fn binary(op: Binary, a: Array, b: Array) -> Result<Array> {
    Ok(match (a, b) {
        (Array::F32(a), Array::F32(b)) => Array::F32(match op {
            Binary::Add => zip(a, b, |a, b| a + b)?,
            Binary::Sub => zip(a, b, |a, b| a - b)?,
            Binary::Mul => zip(a, b, |a, b| a * b)?,
            Binary::Div => zip(a, b, |a, b| a / b)?,
            Binary::Max => zip(a, b, larger)?,
        }),
        (Array::I64(a), Array::I64(b)) => Array::I64(match op {
            Binary::Add => zip(a, b, i64::wrapping_add)?,
            Binary::Sub => zip(a, b, i64::wrapping_sub)?,
            Binary::Mul => zip(a, b, i64::wrapping_mul)?,
            Binary::Div => zip(a, nonzero(b)?, i64::wrapping_div)?,
            Binary::Max => zip(a, b, i64::max)?,
        }),
        (Array::I32(a), Array::I32(b)) => Array::I32(match op {
            Binary::Add => zip(a, b, i32::wrapping_add)?,
            Binary::Sub => zip(a, b, i32::wrapping_sub)?,
            Binary::Mul => zip(a, b, i32::wrapping_mul)?,
            Binary::Div => zip(a, nonzero(b)?, i32::wrapping_div)?,
            Binary::Max => zip(a, b, i32::max)?,
        }),
        _ => return Err(Error::unsupported("the evaluator computes with floats, i64 and i32 alone")),
    })
}

/// The larger number; NaN stays NaN.
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

fn nonzero<T: Clone + Default + PartialEq>(divisor: Shared<T>) -> Result<Shared<T>> {
    match divisor.iter().any(|x| *x == T::default()) {
        true => Err(Error::bad_input("an integer is divided by 0")),
        false => Ok(divisor),
    }
}

/// Works in place where one of the two has the shape of the result.
fn zip<T: Copy>(a: Shared<T>, b: Shared<T>, f: impl Fn(T, T) -> T + Copy) -> Result<Shared<T>> {
    let shape = broadcast(a.shape(), b.shape())?;
    if a.shape() == shape {
        return into(a, b, f);
    }
    if b.shape() == shape {
        return into(b, a, |b, a| f(a, b));
    }
    let (a, b) = (stretched(&a, &shape)?, stretched(&b, &shape)?);
    Ok(Zip::from(&a).and(&b).map_collect(|a, b| f(*a, *b)).into_shared())
}

/// `a ← a ∘ b`, where `b` stretches to `a`.
fn into<T: Copy>(a: Shared<T>, b: Shared<T>, f: impl Fn(T, T) -> T) -> Result<Shared<T>> {
    let mut a = standard(a);
    if !repeats_along_last(a.shape(), b.shape()) {
        let b = stretched(&b, a.shape())?;
        Zip::from(&mut a).and(&b).for_each(|a, b| *a = f(*a, *b));
        return Ok(a);
    }
    let b = standard(b);
    let (row, count) = (elements(&b)?, b.len().max(1));
    let values = a.as_slice_mut().ok_or_else(|| Error::bug("an array is not in the order of its elements"))?;
    if let [b] = row {
        values.iter_mut().for_each(|a| *a = f(*a, *b));
    } else {
        values.chunks_mut(count).for_each(|chunk| chunk.iter_mut().zip(row).for_each(|(a, b)| *a = f(*a, *b)));
    }
    Ok(a)
}

/// Whether a stretched array is its own elements again and again.
fn repeats_along_last(shape: &[usize], of: &[usize]) -> bool {
    let ones = of.iter().take_while(|n| **n == 1).count();
    of.len() <= shape.len() && shape.ends_with(of.get(ones..).unwrap_or_default())
}

/// `f(x)` of floats.
pub(super) fn unary(x: Array, f: impl Fn(f32) -> f32) -> Result<Array> {
    let Array::F32(mut x) = x else { return Err(Error::bug("a function of floats got none")) };
    x.map_inplace(|x| *x = f(*x));
    Ok(Array::F32(x))
}

/// `max(x, 0)`; NaN stays NaN.
pub(super) fn relu(x: Array) -> Result<Array> {
    match x {
        Array::F32(mut x) => {
            x.map_inplace(|x| *x = if *x < 0.0 { 0.0 } else { *x });
            Ok(Array::F32(x))
        }
        Array::I64(x) => Ok(Array::I64(x.mapv(|x| x.max(0)).into_shared())),
        Array::I32(x) => Ok(Array::I32(x.mapv(|x| x.max(0)).into_shared())),
        _ => Err(Error::unsupported("the evaluator computes with floats, i64 and i32 alone")),
    }
}

/// `a` where the condition holds, else `b`.
pub(super) fn choose(condition: Array, a: Array, b: Array) -> Result<Array> {
    let Array::Bool(condition) = condition else { return Err(Error::bug("a condition is no bool")) };
    let shape = broadcast(&broadcast(a.shape(), b.shape())?, condition.shape())?;
    let condition = stretched(&condition, &shape)?;
    macro_rules! chosen {
        ($($variant:ident),*) => {
            match (&a, &b) {
                $((Array::$variant(a), Array::$variant(b)) => {
                    let (a, b) = (stretched(a, &shape)?, stretched(b, &shape)?);
                    let pick = |condition: &bool, a: &_, b: &_| if *condition { *a } else { *b };
                    Ok(Array::$variant(Zip::from(&condition).and(&a).and(&b).map_collect(pick).into_shared()))
                })*
                _ => Err(misfit(a.shape(), b.shape())),
            }
        };
    }
    chosen!(F32, I64, I32, U8, I8, Bool)
}

/// The same numbers in another element type: floats lose their fraction and stay in the range of an integer, integers
/// keep their lowest bits, and bool is whether a number is not 0.
pub(super) fn cast(x: Array, to: DType) -> Result<Array> {
    if x.holds(to) {
        return Ok(x);
    }
    let shape = x.shape().to_vec();
    macro_rules! to {
        ($ty:ty, $variant:ident) => {
            match x {
                Array::F32(x) => Array::$variant(shared(&shape, x.iter().map(|x| *x as $ty).collect())?),
                Array::I64(x) => Array::$variant(shared(&shape, x.iter().map(|x| *x as $ty).collect())?),
                Array::I32(x) => Array::$variant(shared(&shape, x.iter().map(|x| *x as $ty).collect())?),
                Array::U8(x) => Array::$variant(shared(&shape, x.iter().map(|x| *x as $ty).collect())?),
                Array::I8(x) => Array::$variant(shared(&shape, x.iter().map(|x| *x as $ty).collect())?),
                Array::Bool(x) => Array::$variant(shared(&shape, x.iter().map(|x| u8::from(*x) as $ty).collect())?),
            }
        };
    }
    Ok(match to {
        DType::F32 | DType::F16 | DType::BF16 => to!(f32, F32),
        DType::I64 => to!(i64, I64),
        DType::I32 => to!(i32, I32),
        DType::U8 => to!(u8, U8),
        DType::I8 => to!(i8, I8),
        DType::Bool => Array::Bool(shared(&shape, for_each_type!(x, x => nonzeros(&x)))?),
        DType::F64 | DType::I16 => return Err(Error::unsupported(format!("the evaluator computes with no {to}"))),
    })
}

fn nonzeros<T: Default + PartialEq>(x: &Shared<T>) -> Vec<bool> {
    x.iter().map(|x| *x != T::default()).collect()
}

/// The error function within a few units in the last place: an odd polynomial near 0, else `1 − e^p(|x|)`.
pub(super) fn erf(x: f32) -> f32 {
    let (size, square) = (x.abs(), x * x);
    if size > 0.921_875 {
        let p = -1.728_534_7e-5 * size + 3.831_971_3e-4;
        let p = p * square + (-3.883_964_4e-3 * size + 2.425_462_2e-2);
        let p = (p * size - 1.067_778_8e-1) * size - 6.348_467e-1;
        let p = (p * size - 1.287_175_1e-1) * size - size;
        return (1.0 - p.exp()).copysign(x);
    }
    let p = -5.967_617e-4 * square + 4.991_194_2e-3;
    let p = (p * square - 2.676_813_5e-2) * square + 1.128_199_25e-1;
    let p = (p * square - 3.761_253_4e-1) * square + 1.283_791_7e-1;
    p * x + x
}

/// `x · Φ(x)`
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[usize], values: &[f32]) -> Array {
        Array::f32s(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn operands_are_stretched_whichever_is_larger() {
        let (wide, row, column) =
            (floats(&[2, 3], &[1., 2., 3., 4., 5., 6.]), floats(&[3], &[1., 2., 4.]), floats(&[2, 1], &[10., 20.]));
        let of = |op, a: &Array, b: &Array| binary(op, a.clone(), b.clone()).unwrap();
        assert_eq!(of(Binary::Sub, &wide, &row), floats(&[2, 3], &[0., 0., -1., 3., 3., 2.]));
        assert_eq!(of(Binary::Sub, &row, &wide), floats(&[2, 3], &[0., 0., 1., -3., -3., -2.]));
        assert_eq!(of(Binary::Div, &column, &row), floats(&[2, 3], &[10., 5., 2.5, 20., 10., 5.]));
        assert_eq!(of(Binary::Mul, &wide, &column), floats(&[2, 3], &[10., 20., 30., 80., 100., 120.]));
        assert_eq!(of(Binary::Add, &wide, &floats(&[], &[1.])), floats(&[2, 3], &[2., 3., 4., 5., 6., 7.]));
        assert_eq!(of(Binary::Max, &column, &floats(&[1, 1], &[15.])), floats(&[2, 1], &[15., 20.]));
        let integers = |values: &[i64]| Array::i64s(&[2], values.to_vec()).unwrap();
        assert_eq!(of(Binary::Sub, &integers(&[7, -7]), &integers(&[2, 2])), integers(&[5, -9]));
        assert_eq!(of(Binary::Div, &integers(&[7, -7]), &integers(&[2, 2])), integers(&[3, -3]));
        let said = binary(Binary::Div, integers(&[7, -7]), integers(&[2, 0])).unwrap_err();
        assert_eq!(said.message(), "an integer is divided by 0");
    }

    #[test]
    fn a_number_that_is_none_is_never_lost() {
        let nan = || floats(&[1], &[f32::NAN]);
        for x in [
            binary(Binary::Max, nan(), floats(&[1], &[1.])),
            binary(Binary::Max, floats(&[1], &[1.]), nan()),
            relu(nan()),
        ] {
            assert!(x.unwrap().to_f32s().unwrap()[0].is_nan());
        }
    }

    #[test]
    fn a_choice_stretches_all_three() {
        let condition = cast(Array::i64s(&[2, 1], vec![3, 0]).unwrap(), DType::Bool).unwrap();
        let chosen = choose(condition, floats(&[3], &[1., 2., 3.]), floats(&[], &[-1.])).unwrap();
        assert_eq!(chosen, floats(&[2, 3], &[1., 2., 3., -1., -1., -1.]));
    }

    #[test]
    fn casts_round_to_the_type() {
        let to = |values: &[f32], to| cast(floats(&[values.len()], values), to).unwrap();
        assert_eq!(to(&[-1.7, 1.7], DType::I64), Array::i64s(&[2], vec![-1, 1]).unwrap());
        assert_eq!(to(&[-1.7, 300.], DType::U8), Array::U8(shared(&[2], vec![0, 255]).unwrap()));
        assert_eq!(to(&[-0.5, 0.0], DType::Bool), Array::Bool(shared(&[2], vec![true, false]).unwrap()));
        let bools = to(&[-0.5, 0.0], DType::Bool);
        assert_eq!(cast(bools, DType::F16).unwrap(), floats(&[2], &[1.0, 0.0]));
        assert!(cast(floats(&[1], &[1.]), DType::F64).is_err());
    }

    /// By its series, in 64 bits.
    fn exact(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn the_error_function_is_close_everywhere() {
        for i in -400..=400 {
            let x = i as f32 / 100.0;
            let difference = (f64::from(erf(x)) - exact(f64::from(x))).abs();
            assert!(difference <= 2.5e-7, "erf({x}) is {difference} away");
        }
        assert_eq!([erf(f32::INFINITY), erf(-40.0), erf(0.0)], [1.0, -1.0, 0.0]);
        assert!(erf(f32::NAN).is_nan());
        assert!((gelu(1.0) - 0.841_344_7).abs() < 1e-6 && gelu(-30.0) == 0.0);
    }
}
