//! The types of 8-bit operations.

use super::{Inferred, Operands, project};
use crate::ir::op::Op;
use crate::ir::types::{DType, Dim, TensorType};

/// One number of that type.
fn scalar(dtype: DType) -> TensorType {
    TensorType { dtype, shape: Vec::new() }
}

/// The range of an 8-bit type.
fn range(dtype: DType) -> Option<std::ops::RangeInclusive<i64>> {
    match dtype {
        DType::U8 => Some(0..=255),
        DType::I8 => Some(-128..=127),
        _ => None,
    }
}

pub(super) fn dynamic_linear(o: &Operands) -> Inferred {
    // ONNX Runtime's operator has a slot for zero points, which symmetric weights leave empty.
    let bias = if matches!(o.op, Op::DynamicQuantizeMatMul) { 4 } else { 3 };
    o.count(3, bias + 1)?;
    let x = o.get(0, "x")?;
    if x.dtype != DType::F32 {
        return o.fail(format!("`x` must be f32, found {x}"));
    }
    per_channel(o, x, 2, bias)
}

pub(super) fn static_linear(o: &Operands, to: DType, scale: f32, zero_point: i64) -> Inferred {
    o.count(3, 4)?;
    if !range(to).is_some_and(|range| range.contains(&zero_point)) || !scale.is_normal() || scale < 0.0 {
        return o.fail(format!("a step of {scale} from {zero_point} on does not make {to}"));
    }
    let x = o.get(0, "x")?;
    if !x.dtype.is_float() {
        return o.fail(format!("`x` must be floats, found {x}"));
    }
    // Products of 8-bit numbers leave half precision before they are scaled: their steps stay in 32 bits.
    let scales = if o.get(2, "scales")?.dtype == DType::F32 { DType::F32 } else { x.dtype };
    per_channel_scaled(o, x, (2, scales), 3)
}

pub(super) fn weight_linear(o: &Operands) -> Inferred {
    o.count(3, 4)?;
    let x = o.get(0, "x")?;
    if !x.dtype.is_float() {
        return o.fail(format!("`x` must be floats, found {x}"));
    }
    per_channel(o, x, 2, 3)
}

/// A product with weights in blocks; `bias` is the index of the bias.
pub(super) fn block_linear(o: &Operands, bits: i64, size: i64, bias: usize) -> Inferred {
    o.count(3, bias + 1)?;
    let (x, values) = (o.get(0, "x")?, o.get(1, "values")?);
    let (Ok(bits @ (4 | 8)), Ok(size @ 16..)) = (usize::try_from(bits), usize::try_from(size)) else {
        return o.fail(format!("blocks of {size} elements of {bits} bits are not known"));
    };
    let k = x.shape.last().and_then(Dim::fixed).filter(|_| x.dtype == DType::F32);
    let (Some(k), Some(n)) = (k, values.shape.first().and_then(Dim::fixed)) else {
        return o.fail(format!("{x} cannot be multiplied by {values}"));
    };
    let blocks = k.div_ceil(size);
    o.expect(1, "values", &TensorType::new(DType::U8, [n, blocks, size / 8 * bits]))?;
    o.expect(2, "scales", &TensorType::new(DType::F32, [n, blocks]))?;
    o.expect_optional(3, "zero_points", &TensorType::new(DType::U8, [n, (blocks * bits).div_ceil(8)]))?;
    if let (5, Some(order)) = (bias, o.optional(4)) {
        return o.fail(format!("weights are in their own order, found {order}"));
    }
    o.expect_optional(bias, "bias", &TensorType::new(DType::F32, [n]))?;
    let leading = x.shape.iter().take(x.rank().saturating_sub(1)).cloned();
    Ok(vec![TensorType::new(DType::F32, leading.chain([Dim::Fixed(n)]))])
}

pub(super) fn embed(o: &Operands) -> Inferred {
    o.count(3, 3)?;
    let (values, ids) = (o.get(0, "values")?, o.get(2, "ids")?);
    let [rows, width] = values.shape.as_slice() else {
        return o.fail(format!("`values` must be a matrix, found {values}"));
    };
    if values.dtype != DType::I8 || ids.dtype != DType::I64 {
        return o.fail(format!("`values` must be i8 and `ids` i64, found {values} and {ids}"));
    }
    o.expect(1, "scales", &TensorType::new(DType::F32, [rows.clone()]))?;
    Ok(vec![TensorType::new(DType::F32, ids.shape.iter().chain([width]).cloned())])
}

/// The product of `x` and 8-bit values, operand 1, with scales and a bias for each channel, all in the type of `x`.
fn per_channel(o: &Operands, x: &TensorType, scales: usize, bias: usize) -> Inferred {
    per_channel_scaled(o, x, (scales, x.dtype), bias)
}

/// The same with scales of another type.
fn per_channel_scaled(o: &Operands, x: &TensorType, (scales, scale_dtype): (usize, DType), bias: usize) -> Inferred {
    let values = o.get(1, "values")?;
    if values.dtype != DType::I8 {
        return o.fail(format!("`values` must be i8, found {values}"));
    }
    let out = project(o, x, values)?;
    let channels = TensorType::new(x.dtype, out.shape.last().cloned());
    o.expect(scales, "scales", &channels.with_dtype(scale_dtype))?;
    o.expect_optional(bias, "bias", &channels)?;
    Ok(vec![out])
}

pub(super) fn dynamic_quantize(o: &Operands) -> Inferred {
    let x = o.only()?;
    if x.dtype != DType::F32 {
        return o.fail(format!("needs f32, found {x}"));
    }
    Ok(vec![x.with_dtype(DType::U8), scalar(DType::F32), scalar(DType::U8)])
}

pub(super) fn mat_mul_integer(o: &Operands) -> Inferred {
    o.count(3, 3)?;
    let (a, b) = (o.get(0, "a")?, o.get(1, "b")?);
    if a.dtype != DType::U8 || b.dtype != DType::I8 {
        return o.fail(format!("`a` must be u8 and `b` i8, found {a} and {b}"));
    }
    o.expect(2, "a_zero_point", &scalar(DType::U8))?;
    Ok(vec![project(o, a, b)?.with_dtype(DType::I32)])
}

pub(super) fn mat_mul_integer_to_float(o: &Operands) -> Inferred {
    o.count(5, 7)?;
    let a = o.get(0, "a")?;
    if range(a.dtype).is_none() {
        return o.fail(format!("`a` must be u8 or i8, found {a}"));
    }
    o.expect(2, "a_scale", &scalar(DType::F32))?;
    o.expect(4, "a_zero_point", &scalar(a.dtype))?;
    if let Some(points) = o.optional(5) {
        return o.fail(format!("weights are symmetric, found zero points {points}"));
    }
    per_channel(o, &a.with_dtype(DType::F32), 3, 6)
}

pub(super) fn quantize(o: &Operands) -> Inferred {
    o.count(3, 3)?;
    let (x, zero_point) = (o.get(0, "x")?, o.get(2, "zero_point")?);
    if !x.dtype.is_float() || range(zero_point.dtype).is_none() || zero_point.rank() != 0 {
        return o.fail(format!("{x} is not quantized from {zero_point} on"));
    }
    o.expect(1, "scale", &scalar(x.dtype))?;
    Ok(vec![x.with_dtype(zero_point.dtype)])
}

pub(super) fn dequantize(o: &Operands, axis: i64) -> Inferred {
    o.count(2, 3)?;
    let (x, scale) = (o.get(0, "x")?, o.get(1, "scale")?);
    if range(x.dtype).is_none() || !scale.dtype.is_float() {
        return o.fail(format!("{x} in steps of {scale} are no floats"));
    }
    if scale.rank() != 0 {
        let channels = x.shape.get(o.axis(axis, x.rank())?).cloned();
        o.expect(1, "scale", &TensorType::new(scale.dtype, channels))?;
    }
    o.expect_optional(2, "zero_point", &scale.with_dtype(x.dtype))?;
    Ok(vec![x.with_dtype(scale.dtype)])
}
