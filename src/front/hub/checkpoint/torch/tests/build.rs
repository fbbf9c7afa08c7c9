//! Writes pickles, archives and streams byte by byte.

use super::legacy;

/// A string.
pub(super) fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An integer.
pub(super) fn int(n: i64) -> Vec<u8> {
    match i32::try_from(n) {
        Ok(n) => [b"J", &n.to_le_bytes()[..]].concat(),
        Err(_) => [b"\x8a\x08", &n.to_le_bytes()[..]].concat(),
    }
}

/// A name.
pub(super) fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// A tuple.
pub(super) fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

/// A tuple of integers.
pub(super) fn ints(items: &[i64]) -> Vec<u8> {
    tuple(&items.iter().map(|n| int(*n)).collect::<Vec<_>>())
}

/// A list.
pub(super) fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"](", &items.concat()[..], b"e"].concat()
}

/// A dict with names as keys.
pub(super) fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<Vec<u8>> = entries.iter().map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(", &entries.concat()[..], b"u"].concat()
}

/// `callable(*arguments)`
pub(super) fn call(callable: Vec<u8>, arguments: &[Vec<u8>]) -> Vec<u8> {
    [callable, tuple(arguments), b"R".to_vec()].concat()
}

/// An empty OrderedDict.
pub(super) fn ordered() -> Vec<u8> {
    call(global("collections", "OrderedDict"), &[])
}

/// A storage of the class `torch.{class}`.
pub(super) fn storage(class: &str, key: &str, numel: i64) -> Vec<u8> {
    let id = tuple(&[text("storage"), global("torch", class), text(key), text("cpu"), int(numel)]);
    [id, b"Q".to_vec()].concat()
}

/// The parts of a tensor.
pub(super) fn arguments(storage: Vec<u8>, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<Vec<u8>> {
    vec![storage, int(offset), ints(shape), ints(strides), b"\x89".to_vec(), ordered()]
}

/// A tensor.
pub(super) fn tensor(storage: Vec<u8>, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    call(global("torch._utils", "_rebuild_tensor_v2"), &arguments(storage, offset, shape, strides))
}

/// A tensor of two floats in storage `0`.
pub(super) fn pair() -> Vec<u8> {
    tensor(storage("FloatStorage", "0", 2), 0, &[2], &[1])
}

/// A pickle of protocol 2.
pub(super) fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

/// An archive of the pickle `body` and of storages by key.
pub(super) fn saved(body: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let data = pickle(body);
    let mut entries = vec![("m/data.pkl".to_owned(), &data[..])];
    entries.extend(storages.iter().map(|(key, bytes)| (format!("m/data/{key}"), *bytes)));
    let entries: Vec<(&str, &[u8])> = entries.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    archive(&entries)
}

/// A zip archive of stored entries.
pub(super) fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let size = (data.len() as u32).to_le_bytes();
        let sizes = [&crc32fast::hash(data).to_le_bytes()[..], &size, &size].concat();
        let name_len = (name.len() as u16).to_le_bytes();
        let header = (bytes.len() as u32).to_le_bytes();
        directory.extend([b"PK\x01\x02", &[0; 4][..], &[0; 8], &sizes, &name_len].concat());
        directory.extend([&[0; 12][..], &header, name.as_bytes()].concat());
        bytes.extend([b"PK\x03\x04", &[0; 2][..], &[0; 8], &sizes, &name_len, &[0; 2]].concat());
        bytes.extend([name.as_bytes(), data].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (start, size) = ((bytes.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    bytes.extend(directory);
    bytes.extend([b"PK\x05\x06", &[0; 4][..], &count, &count, &size, &start, &[0; 2]].concat());
    bytes
}

/// A stream as before PyTorch 1.6: the object, the keys, and what follows them.
pub(super) fn stream(object: &[u8], keys: &[&str], storages: &[u8]) -> Vec<u8> {
    let system = dict(&[("protocol_version", int(1001)), ("little_endian", b"\x88".to_vec())]);
    let keys: Vec<Vec<u8>> = keys.iter().map(|key| text(key)).collect();
    let pickles = [int(1001), system, object.to_vec(), list(&keys)].map(|body| pickle(&body));
    [legacy::MAGIC, &pickles.concat(), storages].concat()
}

/// A storage of a stream: the number of elements, and floats.
pub(super) fn elements(values: &[f32]) -> Vec<u8> {
    [(values.len() as u64).to_le_bytes().to_vec(), floats(values)].concat()
}

/// Floats, little-endian.
pub(super) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
