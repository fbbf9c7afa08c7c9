//! Elements as the host has them, and as the bytes of a tensor of a plan.

use half::{bf16, f16};
use trtx::DataType;

use crate::error::{Error, Result, printable};
use crate::runtime::{ElementType, Elements};

/// Bytes of an element; fails for types that a plan of kilnc's has nowhere as input or output.
pub(super) fn size_of(name: &str, kind: DataType) -> Result<usize> {
    match kind {
        DataType::kINT64 => Ok(8),
        DataType::kFLOAT | DataType::kINT32 => Ok(4),
        DataType::kHALF | DataType::kBF16 => Ok(2),
        DataType::kBOOL => Ok(1),
        other => Err(Error::unsupported(format!("the plan's tensor `{}` is of {other:?}", printable(name)))),
    }
}

/// Bytes of a tensor of that shape. Fails where a size is not known, and where the product overflows.
pub(super) fn bytes_of(name: &str, shape: &[i64], kind: DataType) -> Result<usize> {
    let sizes = shape.iter().map(|size| usize::try_from(*size).ok());
    let product = sizes.chain([Some(size_of(name, kind)?)]).try_fold(1_usize, |all, size| all.checked_mul(size?));
    product
        .ok_or_else(|| Error::unsupported(format!("the plan's tensor `{}` has the shape {shape:?}", printable(name))))
}

/// The type that such elements have in our memory.
pub(super) fn host_type(kind: DataType) -> ElementType {
    match kind {
        DataType::kFLOAT | DataType::kHALF | DataType::kBF16 => ElementType::F32,
        _ => ElementType::I64,
    }
}

/// The elements of an input in the plan's own type. Fails where a number does not fit it.
pub(super) fn pack(name: &str, elements: &Elements, kind: DataType) -> Result<Vec<u8>> {
    size_of(name, kind)?;
    let misfit =
        |given: &str| Error::bad_input(format!("the plan's input `{}` is of {kind:?}, found {given}", printable(name)));
    match (elements, kind) {
        (Elements::I64(values), DataType::kINT64) => Ok(bytes(values, |x| x.to_le_bytes())),
        (Elements::I64(values), DataType::kINT32) => {
            let narrow = |x: &i64| i32::try_from(*x).map(i32::to_le_bytes).map_err(|_| misfit(&x.to_string()));
            Ok(values.iter().map(narrow).collect::<Result<Vec<_>>>()?.concat())
        }
        (Elements::I64(values), DataType::kBOOL) => match values.iter().find(|x| !(0..=1).contains(*x)) {
            Some(other) => Err(misfit(&other.to_string())),
            None => Ok(values.iter().map(|x| u8::from(*x == 1)).collect()),
        },
        (Elements::F32(values), DataType::kFLOAT) => Ok(bytes(values, |x| x.to_le_bytes())),
        (Elements::F32(values), DataType::kHALF) => Ok(bytes(values, |x| f16::from_f32(x).to_le_bytes())),
        (Elements::F32(values), DataType::kBF16) => Ok(bytes(values, |x| bf16::from_f32(x).to_le_bytes())),
        (Elements::F32(_), _) => Err(misfit("a fraction")),
        (Elements::I64(_), _) => Err(misfit("an integer")),
        (other, _) => Err(misfit(&format!("a tensor of {}", other.element_type()))),
    }
}

/// Fails where the elements of an input are not those of its shape: the rest of an older query would be read.
pub(super) fn check_fills(name: &str, shape: &[i64], kind: DataType, bytes: &[u8]) -> Result<()> {
    let (wanted, size) = (bytes_of(name, shape, kind)?, size_of(name, kind)?);
    match bytes.len() == wanted {
        true => Ok(()),
        false => Err(Error::bad_input(format!(
            "the plan's input `{}` has the shape {shape:?} and {} elements",
            printable(name),
            bytes.len() / size
        ))),
    }
}

/// The elements of an output: floats of any width as `f32`, and integers as `i64`.
pub(super) fn unpack(name: &str, bytes: &[u8], kind: DataType) -> Result<Elements> {
    size_of(name, kind)?;
    Ok(match kind {
        DataType::kFLOAT => Elements::F32(read(bytes, f32::from_le_bytes)),
        DataType::kHALF => Elements::F32(read(bytes, |b| f16::from_le_bytes(b).to_f32())),
        DataType::kBF16 => Elements::F32(read(bytes, |b| bf16::from_le_bytes(b).to_f32())),
        DataType::kINT32 => Elements::I64(read(bytes, |b| i32::from_le_bytes(b).into())),
        DataType::kINT64 => Elements::I64(read(bytes, i64::from_le_bytes)),
        _ => Elements::I64(bytes.iter().map(|b| i64::from(*b != 0)).collect()),
    })
}

fn bytes<T: Copy, const N: usize>(values: &[T], one: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|x| one(*x)).collect()
}

fn read<T, const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|chunk| one(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: [f32; 4] = [0.0, -1.5, 65504.0, 0.099_975_586];

    #[test]
    fn token_ids_get_the_width_of_the_plan() {
        let ids = Elements::I64(vec![101, -1, 30521]);
        for kind in [DataType::kINT64, DataType::kINT32] {
            let packed = pack("input_ids", &ids, kind).unwrap();
            assert_eq!(packed.len(), bytes_of("input_ids", &[1, 3], kind).unwrap());
            assert_eq!(unpack("input_ids", &packed, kind).unwrap(), ids);
        }
        let mask = Elements::I64(vec![1, 1, 0]);
        let packed = pack("mask", &mask, DataType::kBOOL).unwrap();
        assert_eq!((packed.as_slice(), unpack("mask", &packed, DataType::kBOOL).unwrap()), (&[1, 1, 0][..], mask));
    }

    #[test]
    fn half_precision_comes_back_as_the_floats_it_holds() {
        for kind in [DataType::kFLOAT, DataType::kHALF] {
            let packed = pack("x", &Elements::F32(FLOATS.to_vec()), kind).unwrap();
            assert_eq!(unpack("x", &packed, kind).unwrap(), Elements::F32(FLOATS.to_vec()));
        }
        let packed = pack("x", &Elements::F32(vec![-2.5, f32::MAX]), DataType::kBF16).unwrap();
        assert_eq!(unpack("x", &packed, DataType::kBF16).unwrap(), Elements::F32(vec![-2.5, f32::INFINITY]));
        let Elements::F32(non_finite) = unpack("x", &[0, 0x7e, 0, 0xfc], DataType::kHALF).unwrap() else {
            unreachable!()
        };
        assert!(non_finite[0].is_nan() && non_finite[1] == f32::NEG_INFINITY, "{non_finite:?}");
    }

    #[test]
    fn values_that_do_not_fit_are_named() {
        let said = |elements, kind| pack("input_ids", &elements, kind).unwrap_err().to_string();
        assert_eq!(
            said(Elements::I64(vec![0, 1 << 31]), DataType::kINT32),
            "the plan's input `input_ids` is of kINT32, found 2147483648"
        );
        assert!(said(Elements::I64(vec![2]), DataType::kBOOL).ends_with("is of kBOOL, found 2"));
        assert!(said(Elements::I64(vec![2]), DataType::kHALF).ends_with("is of kHALF, found an integer"));
        assert!(said(Elements::F32(vec![2.0]), DataType::kINT64).ends_with("is of kINT64, found a fraction"));
        assert_eq!(said(Elements::F32(vec![2.0]), DataType::kFP4), "the plan's tensor `input_ids` is of kFP4");
        let filled = |n: usize| check_fills("input_ids", &[2, 3], DataType::kINT32, &vec![0; n]);
        assert!(filled(24).is_ok());
        let short = filled(20).unwrap_err().to_string();
        assert_eq!(short, "the plan's input `input_ids` has the shape [2, 3] and 5 elements");
        let shaped = |shape: &[i64]| bytes_of("logits", shape, DataType::kHALF);
        assert_eq!(shaped(&[2, 3]).unwrap(), 12);
        assert_eq!(shaped(&[]).unwrap(), 2);
        for shape in [&[2, -1][..], &[i64::MAX, i64::MAX]] {
            let said = shaped(shape).unwrap_err().to_string();
            assert_eq!(said, format!("the plan's tensor `logits` has the shape {shape:?}"));
        }
    }
}
