//! Reads files of `torch.save`, without Python and without running anything.
//!
//! Such a file holds a pickle, which is a program, and the elements of tensors. `pickle` reads the program as data:
//! a dict of tensors is all it may make. There are two containers: a zip archive (`zip`), and the stream of before
//! PyTorch 1.6 (`legacy`). The file is mapped; a tensor whose elements follow each other is a lazy [`Weight`] in
//! place, and memory is bounded by the file's size. Source: `torch/serialization.py`.

mod cursor;
mod legacy;
mod pickle;
mod rebuild;
mod strided;
#[cfg(test)]
mod tests;
mod value;
mod zip;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use self::pickle::Pickle;
use self::strided::Views;
use self::value::{Object, Tensor, Value};
use crate::error::{Error, Kind, Result, printable};
use crate::file;
use crate::ir::Weight;
use crate::json;

/// The tensors of a file, by name, in the file's order. Fails where the file is damaged or calls code.
pub fn read(path: &Path) -> Result<Vec<(String, Weight)>> {
    parse(file::map(path)?).map_err(|e| {
        let hint = match e.kind() {
            Kind::Unsupported => "re-save as safetensors: model.save_pretrained(DIR, safe_serialization=True)",
            _ => "the file is damaged or cut short; fetch it again",
        };
        e.at(json::file_name(path)).hint(hint)
    })
}

/// The tensors of a file's bytes, by name, in the file's order.
pub fn parse(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Vec<(String, Weight)>> {
    let views = Views::new(bytes.clone());
    let bytes = (*bytes).as_ref();
    if bytes.starts_with(zip::MAGIC) {
        let archive = zip::Archive::open(bytes)?;
        let pickle = archived(bytes, &archive)?;
        return weights(&pickle, views, |key| archive.record(&format!("data/{key}")));
    }
    if bytes.starts_with(legacy::MAGIC) {
        let (pickle, storages) = legacy::read(bytes)?;
        return weights(&pickle, views, |key| storages.get(key).cloned());
    }
    Err(foreign(bytes))
}

/// The pickle of an archive. Fails where the archive is not one of `torch.save`.
fn archived<'a>(bytes: &'a [u8], archive: &zip::Archive<'a>) -> Result<Pickle<'a>> {
    let record = |name| archive.record(name).and_then(|range| bytes.get(range));
    match record("byteorder") {
        None | Some(b"little") => {}
        Some(b"big") => return Err(Error::unsupported("the file was written on a big-endian machine")),
        Some(_) => return Err(Error::bad_input("the record `byteorder` says neither `little` nor `big`")),
    }
    let data = record("data.pkl")
        .ok_or_else(|| Error::bad_input(format!("`{}/data.pkl` is missing", printable(archive.top))))?;
    let pickle = pickle::read(data, "data.pkl")?;
    match data.len() - pickle.len {
        0 => Ok(pickle),
        left => Err(Error::bad_input(format!("{left} bytes follow the pickle")).at("data.pkl")),
    }
}

/// The weights of the tensors that a pickle names; `record` is where the storage of a key is.
fn weights(
    pickle: &Pickle<'_>,
    mut views: Views,
    record: impl Fn(&str) -> Option<Range<usize>>,
) -> Result<Vec<(String, Weight)>> {
    let mut weights = Vec::new();
    for (name, tensor) in tensors(pickle)? {
        let record = record(tensor.storage.key).ok_or_else(|| {
            let [name, key] = [name, tensor.storage.key].map(printable);
            Error::bad_input(format!("tensor `{name}`: its storage `{key}` is missing"))
        })?;
        weights.push((name.to_owned(), views.weight(name, tensor, record)?));
    }
    Ok(weights)
}

/// The entries of the dict that a pickle is of, or of its entry `state_dict`, as training scripts save it.
fn tensors<'p, 'a>(pickle: &'p Pickle<'a>) -> Result<Vec<(&'a str, &'p Tensor<'a>)>> {
    let Pickle { heap, top, .. } = pickle;
    let dict = heap.dict(*top).ok_or_else(|| {
        Error::unsupported(format!("the file holds {}, expected a dict of tensors", heap.describe(*top)))
    })?;
    let mut named = dict.iter().filter(|(key, _)| matches!(key, Value::Str("state_dict")));
    let nested = named.next().and_then(|(_, value)| heap.dict(*value));
    if named.next().is_some() {
        return Err(Error::bad_input("duplicate `state_dict`"));
    }
    let mut seen = BTreeSet::new();
    let mut tensors = Vec::new();
    for (key, value) in nested.unwrap_or(dict) {
        let Value::Str(name) = *key else {
            return Err(Error::bad_input(format!("a key of the dict is {}, expected a name", heap.describe(*key))));
        };
        let Some(Object::Tensor(tensor)) = heap.get(*value) else {
            let what = heap.describe(*value);
            return Err(Error::unsupported(format!("`{}` is {what}, expected a tensor", printable(name))));
        };
        if !seen.insert(name) {
            return Err(Error::bad_input(format!("duplicate tensor `{}`", printable(name))));
        }
        tensors.push((name, &**tensor));
    }
    Ok(tensors)
}

/// The kind of a file that `torch.save` has not written, by its first bytes.
fn foreign(bytes: &[u8]) -> Error {
    if bytes.get(257..262) == Some(b"ustar") {
        return Error::unsupported("the file is a tar archive, the form of PyTorch before 0.2");
    }
    if bytes.starts_with(b"\x80") {
        return Error::unsupported("the file is a pickle, but not one of PyTorch");
    }
    Error::bad_input("the file is neither a zip archive nor a stream of PyTorch")
}
