//! The functions that a pickle may call: `torch/_utils.py` and `torch/serialization.py` in data.

use super::value::{Global, Heap, Object, Storage, Tensor, Value};
use crate::error::{Error, Result, printable};
use crate::ir::DType;

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;

/// Longest key of a storage, in bytes.
const LONGEST_KEY: usize = 256;

/// The value of `callable(*arguments)`.
pub(super) fn call<'a>(heap: &mut Heap<'a>, callable: Global, arguments: Value<'a>) -> Result<Value<'a>> {
    let Some(given) = heap.tuple(arguments) else {
        let what = heap.describe(arguments);
        return Err(Error::bad_input(format!("the arguments of a call are {what}, expected a tuple")));
    };
    match (callable, given) {
        (Global::OrderedDict, []) => Ok(heap.add(Object::Dict { ordered: true, entries: Vec::new() })),
        (Global::Size, [sizes]) if heap.tuple(*sizes).is_some() => Ok(*sizes),
        (Global::RebuildParameter, [data, Value::Bool(_), hooks]) => {
            nothing(heap, *hooks, "backward hooks")?;
            match heap.get(*data) {
                Some(Object::Tensor(_)) => Ok(*data),
                _ => {
                    Err(Error::bad_input(format!("a parameter is made of {}, expected a tensor", heap.describe(*data))))
                }
            }
        }
        (Global::RebuildTensorV2 | Global::RebuildTensorV3, _) => {
            let tensor = tensor(heap, callable, given)?;
            Ok(heap.add(Object::Tensor(Box::new(tensor))))
        }
        _ => Err(Error::unsupported(format!(
            "the pickle calls `{callable}` with {} arguments, which kilnc does not do",
            given.len()
        ))),
    }
}

/// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`, and
/// `_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`.
fn tensor<'a>(heap: &Heap<'a>, callable: Global, given: &[Value<'a>]) -> Result<Tensor<'a>> {
    let [storage, offset, shape, strides, Value::Bool(_), hooks, rest @ ..] = given else {
        return Err(Error::bad_input(format!("a tensor is made of {} arguments of other types", given.len())));
    };
    let Some(Object::Storage(storage)) = heap.get(*storage) else {
        return Err(Error::bad_input(format!("a tensor is made of {}, expected a storage", heap.describe(*storage))));
    };
    let (dtype, metadata) = match (callable, rest, storage.dtype) {
        (Global::RebuildTensorV2, metadata, Some(dtype)) => (dtype, metadata),
        (Global::RebuildTensorV3, [Value::Global(Global::DType(dtype)), metadata @ ..], _) => (*dtype, metadata),
        _ => return Err(Error::bad_input("a tensor is made without an element type")),
    };
    nothing(heap, *hooks, "backward hooks")?;
    match metadata {
        [] => {}
        [metadata] => nothing(heap, *metadata, "metadata")?,
        _ => return Err(Error::bad_input(format!("a tensor is made of {} arguments", given.len()))),
    }
    let tensor = Tensor {
        storage: (**storage).clone(),
        dtype,
        offset: size(heap, *offset, "offset of a tensor")?,
        shape: sizes(heap, *shape, "size of a tensor")?,
        strides: sizes(heap, *strides, "stride of a tensor")?,
    };
    if tensor.shape.len() != tensor.strides.len() {
        let (dimensions, strides) = (tensor.shape.len(), tensor.strides.len());
        return Err(Error::bad_input(format!("a tensor has {dimensions} dimensions and {strides} strides")));
    }
    Ok(tensor)
}

/// The storage of `('storage', type, key, location, numel)`, to which older writers add None.
pub(super) fn storage<'a>(heap: &Heap<'a>, id: Value<'a>) -> Result<Storage<'a>> {
    let (class, key, numel) = match heap.tuple(id) {
        Some(
            [Value::Str("storage"), Value::Global(class), Value::Str(key), Value::Str(_), numel]
            | [Value::Str("storage"), Value::Global(class), Value::Str(key), Value::Str(_), numel, Value::None],
        ) => (*class, *key, *numel),
        _ => return Err(Error::unsupported("a persistent id is not that of a storage")),
    };
    if key.len() > LONGEST_KEY {
        return Err(Error::bad_input(format!("a storage key of {} bytes, at most {LONGEST_KEY} are read", key.len())));
    }
    let dtype = match class {
        Global::Storage(dtype) => Some(dtype),
        Global::UntypedStorage => None,
        _ => return Err(Error::bad_input(format!("storage `{}` is of the type `{class}`", printable(key)))),
    };
    let numel = size(heap, numel, "number of elements of a storage")?;
    let byte_len = numel
        .checked_mul(dtype.map_or(1, DType::size))
        .ok_or_else(|| Error::bad_input(format!("storage `{}`: its size overflows", printable(key))))?;
    Ok(Storage { key, dtype, numel, byte_len })
}

fn sizes<'a>(heap: &Heap<'a>, values: Value<'a>, what: &str) -> Result<Vec<usize>> {
    let items =
        heap.tuple(values).ok_or_else(|| Error::bad_input(format!("the {what} is {}", heap.describe(values))))?;
    if items.len() > MOST_DIMENSIONS {
        let dimensions = items.len();
        return Err(Error::bad_input(format!(
            "a tensor has {dimensions} dimensions, at most {MOST_DIMENSIONS} are read"
        )));
    }
    items.iter().map(|item| size(heap, *item, what)).collect()
}

fn size<'a>(heap: &Heap<'a>, value: Value<'a>, what: &str) -> Result<usize> {
    match value {
        Value::Int(n) => usize::try_from(n).map_err(|_| Error::bad_input(format!("the {what} is {n}"))),
        other => Err(Error::bad_input(format!("the {what} is {}", heap.describe(other)))),
    }
}

/// Hooks are code, and metadata (`conj`, `neg`) changes the meaning of elements.
fn nothing<'a>(heap: &Heap<'a>, value: Value<'a>, what: &str) -> Result<()> {
    match (value, heap.dict(value)) {
        (Value::None, _) | (_, Some([])) => Ok(()),
        _ => Err(Error::unsupported(format!("a tensor has {what}, which kilnc does not support"))),
    }
}
