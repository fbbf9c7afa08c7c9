//! Writes an adapter's tensors for an engine's inputs, as ONNX Runtime's own adapter files (`.onnx_adapter`).
//!
//! A file is a flatbuffer of ONNX Runtime's schema `lora/adapter_format/adapter_schema.fbs`, format version 1: a list of
//! tensors, each with the name of the input that it is for.

use std::path::Path;

use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, VOffsetT, WIPOffset};

use super::node::element_type;
use crate::error::{Error, Result, printable};
use crate::ir::Weight;

/// The file's identifier, after the offset of its root.
const IDENTIFIER: &str = "TORT";

/// Version of the file format.
const FORMAT_VERSION: i32 = 1;

/// Longest file: flatbuffers end at 2 GiB.
const LARGEST: usize = (1 << 31) - (1 << 20);

/// Offsets of the fields in the tables' own directories.
mod field {
    use super::VOffsetT;

    pub const NAME: VOffsetT = 4;
    pub const DIMS: VOffsetT = 6;
    pub const DATA_TYPE: VOffsetT = 8;
    pub const RAW_DATA: VOffsetT = 10;

    pub const FORMAT_VERSION: VOffsetT = 4;
    pub const ADAPTER_VERSION: VOffsetT = 6;
    pub const MODEL_VERSION: VOffsetT = 8;
    pub const PARAMETERS: VOffsetT = 10;
}

/// Writes an adapter's tensors, by the names of the inputs. Returns the file's length.
pub fn write_adapter(parameters: &[(String, Weight)], path: &Path) -> Result<u64> {
    let total: usize = parameters.iter().map(|(_, weight)| weight.byte_len()).sum();
    if total > LARGEST {
        return Err(Error::unsupported(format!("an adapter of {total} bytes does not fit its file format")));
    }
    let mut file = FlatBufferBuilder::new();
    let tables =
        parameters.iter().map(|(name, weight)| parameter(&mut file, name, weight)).collect::<Result<Vec<_>>>()?;
    let tables = file.create_vector(&tables);
    let root = file.start_table();
    file.push_slot_always(field::FORMAT_VERSION, FORMAT_VERSION);
    file.push_slot_always(field::ADAPTER_VERSION, 1i32);
    file.push_slot_always(field::MODEL_VERSION, 1i32);
    file.push_slot_always(field::PARAMETERS, tables);
    let root = file.end_table(root);
    file.finish(root, Some(IDENTIFIER));
    let refused = |e: std::io::Error| Error::io("writing", path, &e);
    std::fs::write(path, file.finished_data()).map_err(refused)?;
    std::fs::File::open(path).and_then(|written| written.sync_all()).map_err(refused)?;
    Ok(file.finished_data().len() as u64)
}

fn parameter(file: &mut FlatBufferBuilder, name: &str, weight: &Weight) -> Result<WIPOffset<TableFinishedWIPOffset>> {
    let evaluated = weight.evaluate().map_err(|e| e.at(printable(name)))?;
    let bytes = evaluated.as_bytes();
    // The schema wants the data at a multiple of 8. Files are written from their end, and vectors are only aligned to 4.
    while !(file.unfinished_data().len() + bytes.len()).is_multiple_of(8) {
        file.push(0u8);
    }
    let data = file.create_vector(bytes);
    let dims: Vec<i64> = weight.shape().iter().map(|n| *n as i64).collect();
    let dims = file.create_vector(&dims);
    let name = file.create_string(name);
    let table = file.start_table();
    file.push_slot_always(field::NAME, name);
    file.push_slot_always(field::DIMS, dims);
    file.push_slot_always(field::DATA_TYPE, element_type(weight.dtype()));
    file.push_slot_always(field::RAW_DATA, data);
    Ok(file.end_table(table))
}
