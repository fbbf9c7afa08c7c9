//! The stream that PyTorch wrote before 1.6: pickles one after the other, then the storages.
//!
//! In order: the magic number, the protocol version 1001, the system's properties, the object, the list of storage
//! keys, and for each key its number of elements (i64) and its elements. Source: `_legacy_save` in
//! `torch/serialization.py`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::cursor::Cursor;
use super::pickle::{self, Pickle};
use super::value::{Heap, Object, Storage, Value};
use crate::error::{Error, Result, printable};

/// The pickle of `0x1950a86a20f9469cfc6c`.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The only version of the stream there is.
const PROTOCOL: i64 = 1001;

/// The object, and the offset of each storage by its key.
pub(super) fn read(bytes: &[u8]) -> Result<(Pickle<'_>, BTreeMap<&str, Range<usize>>)> {
    let mut at = MAGIC.len();
    match next(bytes, &mut at, "protocol version")?.top {
        Value::Int(PROTOCOL) => {}
        Value::Int(other) => {
            return Err(Error::unsupported(format!("the protocol version is {other}, expected {PROTOCOL}")));
        }
        _ => return Err(Error::bad_input("the protocol version is no integer")),
    }
    check_system(&next(bytes, &mut at, "system info")?)?;
    let object = next(bytes, &mut at, "object")?;
    let keys = next(bytes, &mut at, "storage keys")?;
    let storages = storages(bytes, at, &object.heap, &keys)?;
    Ok((object, storages))
}

/// The pickle at `at`, which moves behind it.
fn next<'a>(bytes: &'a [u8], at: &mut usize, what: &str) -> Result<Pickle<'a>> {
    let pickle = pickle::read(bytes.get(*at..).unwrap_or_default(), what)?;
    *at += pickle.len;
    Ok(pickle)
}

fn check_system(system: &Pickle<'_>) -> Result<()> {
    let entries = system.heap.dict(system.top).unwrap_or_default();
    let little = entries.iter().find(|(key, _)| matches!(key, Value::Str("little_endian")));
    match little {
        Some((_, Value::Bool(true))) => Ok(()),
        Some((_, Value::Bool(false))) => Err(Error::unsupported("the file was written on a big-endian machine")),
        _ => Err(Error::bad_input("the system info does not say `little_endian`")),
    }
}

fn storages<'a>(
    bytes: &[u8],
    at: usize,
    heap: &Heap<'a>,
    keys: &Pickle<'a>,
) -> Result<BTreeMap<&'a str, Range<usize>>> {
    let announced = announced(heap)?;
    let Some(Object::List(items)) = keys.heap.get(keys.top) else {
        return Err(Error::bad_input(format!(
            "the storage keys are {}, expected a list",
            keys.heap.describe(keys.top)
        )));
    };
    let mut cursor = Cursor::at(bytes, at);
    let mut places = BTreeMap::new();
    for item in items {
        let Value::Str(key) = *item else {
            return Err(Error::bad_input(format!("a storage key is {}", keys.heap.describe(*item))));
        };
        let storage = announced
            .get(key)
            .ok_or_else(|| Error::bad_input(format!("storage `{}` belongs to no tensor", printable(key))))?;
        let place = place(&mut cursor, storage)?;
        if places.insert(key, place).is_some() {
            return Err(Error::bad_input(format!("duplicate storage `{}`", printable(key))));
        }
    }
    match cursor.left() {
        0 => Ok(places),
        left => Err(Error::bad_input(format!("{left} bytes follow the last storage"))),
    }
}

/// The storages that the object names. One key means one storage.
fn announced<'h, 'a>(heap: &'h Heap<'a>) -> Result<BTreeMap<&'a str, &'h Storage<'a>>> {
    let mut announced: BTreeMap<&str, &Storage<'_>> = BTreeMap::new();
    for storage in heap.storages() {
        if announced.insert(storage.key, storage).is_some_and(|other| other != storage) {
            return Err(Error::bad_input(format!("storage `{}` has two types or sizes", printable(storage.key))));
        }
    }
    Ok(announced)
}

fn place(cursor: &mut Cursor<'_>, storage: &Storage<'_>) -> Result<Range<usize>> {
    let in_storage = |e: Error| e.at(format!("storage `{}`", printable(storage.key)));
    let numel = cursor.u64().map_err(in_storage)?;
    if numel != storage.numel as u64 {
        return Err(in_storage(Error::bad_input(format!("{numel} elements, expected {}", storage.numel))));
    }
    let start = cursor.position();
    cursor.take(storage.byte_len).map_err(in_storage)?;
    Ok(start..cursor.position())
}
