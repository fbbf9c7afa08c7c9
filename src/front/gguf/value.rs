//! The values of keys: numbers, flags, texts, and lists of them.

use std::ops::Range;

use crate::error::{Error, Result, printable};

/// A type of values, by its number in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl ValueType {
    const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::Text,
        ValueType::List,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// The type of that number.
    pub fn numbered(number: u32) -> Result<ValueType> {
        let known = usize::try_from(number).ok().and_then(|number| ValueType::ALL.get(number));
        known.copied().ok_or_else(|| Error::bad_input(format!("{number} is no type of values")))
    }

    /// Bytes of a value, of texts and lists the fewest.
    pub fn bytes(self) -> usize {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 | ValueType::Text => 8,
            ValueType::List => 12,
        }
    }

    /// The name of a value of it, for messages.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::Bool => "a flag",
            ValueType::Text => "a text",
            ValueType::List => "a list",
            ValueType::F32 | ValueType::F64 => "a number with a point",
            _ => "a whole number",
        }
    }
}

/// A value. Lists stay in the file until they are asked for.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Whole(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    List(List),
}

/// A list: its elements' type and number, and where they are in the file.
#[derive(Clone, Debug)]
pub(super) struct List {
    pub ty: ValueType,
    pub count: usize,
    pub bytes: Range<usize>,
}

impl Value {
    /// What it is, for messages.
    pub fn name(&self) -> String {
        match self {
            Value::Whole(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::Text(text) => format!("`{}`", printable(text)),
            Value::List(list) => format!("a list of {} values", list.count),
        }
    }

    /// A value of a type without texts and lists, of its bytes.
    pub fn plain(ty: ValueType, bytes: &[u8]) -> Result<Value> {
        let mut wide = [0; 8];
        let narrow = wide.get_mut(..bytes.len()).ok_or_else(|| Error::bug("a value of more than 8 bytes"))?;
        narrow.copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        let signed = |bits: u32| i128::from((unsigned << (64 - bits)).cast_signed() >> (64 - bits));
        Ok(match ty {
            ValueType::U8 | ValueType::U16 | ValueType::U32 | ValueType::U64 => Value::Whole(unsigned.into()),
            ValueType::I8 => Value::Whole(signed(8)),
            ValueType::I16 => Value::Whole(signed(16)),
            ValueType::I32 => Value::Whole(signed(32)),
            ValueType::I64 => Value::Whole(signed(64)),
            ValueType::F32 => Value::Float(f32::from_bits(unsigned as u32).into()),
            ValueType::F64 => Value::Float(f64::from_bits(unsigned)),
            ValueType::Bool => match unsigned {
                0 => Value::Flag(false),
                1 => Value::Flag(true),
                other => return Err(Error::bad_input(format!("expected a flag, 0 or 1, found {other}"))),
            },
            ValueType::Text | ValueType::List => return Err(Error::bug("a text or a list read as a number")),
        })
    }
}
