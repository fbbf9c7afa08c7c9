//! The values of a pickle: a closed set.

use std::fmt;

use crate::ir::DType;

/// A value on the stack. Copying is cheap: large values are objects of the [`Heap`], named by their number.
/// So a value that contains another twice costs two numbers, and values may contain themselves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Str(&'a str),
    Global(Global),
    Object(usize),
}

/// The objects that values refer to.
#[derive(Debug)]
pub(super) enum Object<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict { ordered: bool, entries: Vec<(Value<'a>, Value<'a>)> },
    Storage(Box<Storage<'a>>),
    Tensor(Box<Tensor<'a>>),
}

/// The bytes that tensors share, by the name under which the file keeps them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage<'a> {
    /// The name of the record.
    pub(super) key: &'a str,
    /// The type of the elements; `None` where the storage is of bytes.
    pub(super) dtype: Option<DType>,
    /// The number of elements.
    pub(super) numel: usize,
    /// The number of bytes.
    pub(super) byte_len: usize,
}

/// A view of a storage. Element `i` is number `offset + Σ iₖ · stridesₖ` of the storage.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) dtype: DType,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A name that a pickle may call. Names are compared, never resolved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    Size,
    Storage(DType),
    UntypedStorage,
    DType(DType),
}

/// The storages `torch.{}Storage` and the type of their elements.
const STORAGES: [(&str, DType); 10] = [
    ("Double", DType::F64),
    ("Float", DType::F32),
    ("Half", DType::F16),
    ("BFloat16", DType::BF16),
    ("Long", DType::I64),
    ("Int", DType::I32),
    ("Short", DType::I16),
    ("Char", DType::I8),
    ("Byte", DType::U8),
    ("Bool", DType::Bool),
];

/// The element types `torch.{}`.
const DTYPES: [(&str, DType); 10] = [
    ("float64", DType::F64),
    ("float32", DType::F32),
    ("float16", DType::F16),
    ("bfloat16", DType::BF16),
    ("int64", DType::I64),
    ("int32", DType::I32),
    ("int16", DType::I16),
    ("int8", DType::I8),
    ("uint8", DType::U8),
    ("bool", DType::Bool),
];

impl Global {
    /// The name `module.name`, if it is one of the set.
    pub(super) fn named(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "Size") => Global::Size,
            ("torch.storage", "UntypedStorage") => Global::UntypedStorage,
            ("torch", name) => match name.strip_suffix("Storage") {
                Some(elements) => Global::Storage(of_name(&STORAGES, elements)?),
                None => Global::DType(of_name(&DTYPES, name)?),
            },
            _ => return None,
        })
    }
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Global::OrderedDict => f.write_str("collections.OrderedDict"),
            Global::RebuildTensorV2 => f.write_str("torch._utils._rebuild_tensor_v2"),
            Global::RebuildTensorV3 => f.write_str("torch._utils._rebuild_tensor_v3"),
            Global::RebuildParameter => f.write_str("torch._utils._rebuild_parameter"),
            Global::Size => f.write_str("torch.Size"),
            Global::Storage(dtype) => write!(f, "torch.{}Storage", name_of(&STORAGES, *dtype)),
            Global::UntypedStorage => f.write_str("torch.storage.UntypedStorage"),
            Global::DType(dtype) => write!(f, "torch.{}", name_of(&DTYPES, *dtype)),
        }
    }
}

fn of_name(table: &[(&str, DType)], name: &str) -> Option<DType> {
    table.iter().find(|(known, _)| *known == name).map(|(_, dtype)| *dtype)
}

fn name_of(table: &[(&'static str, DType)], dtype: DType) -> &'static str {
    table.iter().find(|(_, known)| *known == dtype).map_or("", |(name, _)| name)
}

/// The objects of one pickle.
#[derive(Default)]
pub(super) struct Heap<'a> {
    objects: Vec<Object<'a>>,
}

impl<'a> Heap<'a> {
    /// Keeps an object.
    pub(super) fn add(&mut self, object: Object<'a>) -> Value<'a> {
        self.objects.push(object);
        Value::Object(self.objects.len() - 1)
    }

    /// How many objects there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// The object that a value refers to.
    pub(super) fn get(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(i) => self.objects.get(i),
            _ => None,
        }
    }

    /// The object that a value refers to, to change it.
    pub(super) fn get_mut(&mut self, value: Value<'a>) -> Option<&mut Object<'a>> {
        match value {
            Value::Object(i) => self.objects.get_mut(i),
            _ => None,
        }
    }

    /// The elements of a tuple.
    pub(super) fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.get(value)? {
            Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dict, as they were set.
    pub(super) fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.get(value)? {
            Object::Dict { entries, .. } => Some(entries),
            _ => None,
        }
    }

    /// Every storage that the pickle names.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage<'a>> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(&**storage),
            _ => None,
        })
    }

    /// The kind of a value, for messages.
    pub(super) fn describe(&self, value: Value<'a>) -> &'static str {
        match value {
            Value::None => "None",
            Value::Bool(_) => "a truth value",
            Value::Int(_) => "an integer",
            Value::Float => "a float",
            Value::Str(_) => "a string",
            Value::Global(_) => "a name",
            Value::Object(_) => match self.get(value) {
                Some(Object::Tuple(_)) => "a tuple",
                Some(Object::List(_)) => "a list",
                Some(Object::Dict { .. }) => "a dict",
                Some(Object::Storage(_)) => "a storage",
                Some(Object::Tensor(_)) => "a tensor",
                None => "nothing",
            },
        }
    }
}
