//! Options of OpenVINO beside the model.
//!
//! They are in an engine's own file, in the model's metadata: `openvino.INFERENCE_PRECISION_HINT` and
//! `openvino.DYNAMIC_QUANTIZATION_GROUP_SIZE`, the names and values of OpenVINO's properties.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use onnx_protobuf::{Message, StringStringEntryProto};
use protobuf::CodedInputStream;
use protobuf::rt::skip_field_for_tag;

use crate::error::{Error, Result, printable};

/// How OpenVINO computes. A file without it is computed in its own types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Whether it multiplies in BF16; else in 32 bits, on every processor.
    pub bf16: bool,
    /// Activations that meet weights of 8 or 4 bits are quantized in groups of so many; 0 leaves them in 32 bits.
    pub group: u32,
}

const PREFIX: &str = "openvino.";
const PRECISION: &str = "INFERENCE_PRECISION_HINT";
const GROUP: &str = "DYNAMIC_QUANTIZATION_GROUP_SIZE";

/// Number and wire type 2 (a length and bytes) of fields of `ModelProto`.
const GRAPH: u32 = 7 << 3 | 2;
const METADATA: u32 = 14 << 3 | 2;

/// Longest metadata that is read.
const LONGEST: u64 = 1 << 20;

impl Hints {
    /// OpenVINO's properties.
    pub fn properties(self) -> [(&'static str, String); 2] {
        [(PRECISION, if self.bf16 { "bf16" } else { "f32" }.to_owned()), (GROUP, self.group.to_string())]
    }

    /// The metadata for it, none for the default.
    pub fn metadata(self) -> Vec<(String, String)> {
        if self == Hints::default() {
            return Vec::new();
        }
        self.properties().into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)).collect()
    }

    /// Reads the metadata of a model. Only those before its graph count: kilnc writes them there.
    pub fn read(path: &Path) -> Result<Hints> {
        let file = File::open(path).map_err(|e| Error::io("reading", path, &e))?;
        let mut hints = Hints::default();
        // The runtime refuses files that are no model.
        for entry in entries(BufReader::new(file.take(LONGEST))).unwrap_or_default() {
            if let Some(name) = entry.key.strip_prefix(PREFIX) {
                hints.set(name, &entry.value).map_err(|e| e.at(path.display().to_string()))?;
            }
        }
        Ok(hints)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match (name, value, value.parse()) {
            (PRECISION, "f32", _) => self.bf16 = false,
            (PRECISION, "bf16", _) => self.bf16 = true,
            (GROUP, _, Ok(group)) => self.group = group,
            _ => {
                return Err(Error::unsupported(format!(
                    "the model wants OpenVINO's `{}` to be `{}`, which kilnc does not set",
                    printable(name),
                    printable(value)
                )));
            }
        }
        Ok(())
    }
}

/// The metadata before a model's graph.
fn entries(mut from: impl std::io::BufRead) -> protobuf::Result<Vec<StringStringEntryProto>> {
    let mut stream = CodedInputStream::from_buf_read(&mut from);
    let mut entries = Vec::new();
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        match tag {
            GRAPH => break,
            METADATA => entries.push(StringStringEntryProto::parse_from_bytes(&stream.read_bytes()?)?),
            _ => skip_field_for_tag(tag, &mut stream)?,
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of that metadata before and after a graph.
    fn read(before: &[(&str, &str)], after: &[(&str, &str)]) -> Result<Hints> {
        let mut bytes = vec![8, 8];
        let mut put = |tag: u32, content: Vec<u8>| {
            bytes.extend([tag as u8, content.len() as u8]);
            bytes.extend(content);
        };
        let entry = |(key, value): &(&str, &str)| {
            let entry = StringStringEntryProto { key: (*key).into(), value: (*value).into(), ..Default::default() };
            entry.write_to_bytes().unwrap()
        };
        before.iter().for_each(|pair| put(METADATA, entry(pair)));
        put(GRAPH, vec![1; 20]);
        after.iter().for_each(|pair| put(METADATA, entry(pair)));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        std::fs::write(&path, bytes).unwrap();
        Hints::read(&path)
    }

    #[test]
    fn hints_are_read_as_they_are_written() {
        for hints in [Hints::default(), Hints { bf16: true, group: 0 }, Hints { bf16: false, group: 128 }] {
            let metadata = hints.metadata();
            let metadata: Vec<_> = metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(read(&metadata, &[("other", "x")]).unwrap(), hints);
            assert_eq!(read(&[("other", "x")], &metadata).unwrap(), Hints::default());
        }
    }

    #[test]
    fn a_property_that_kilnc_does_not_set_is_refused_by_name() {
        let said = |name: &str, value: &str| read(&[(name, value)], &[]).unwrap_err().message().to_owned();
        assert_eq!(
            said("openvino.CACHE_DIR", "/tmp"),
            "the model wants OpenVINO's `CACHE_DIR` to be `/tmp`, which kilnc does not set"
        );
        assert!(said("openvino.INFERENCE_PRECISION_HINT", "f16").contains("to be `f16`"));
        assert!(said("openvino.DYNAMIC_QUANTIZATION_GROUP_SIZE", "-1").contains("to be `-1`"));
    }

    #[test]
    fn other_files_have_no_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        for bytes in [&b""[..], b"garbage", &[0x72, 0xff, 0xff, 0xff, 0xff, 0x0f]] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Hints::read(&path).unwrap(), Hints::default());
        }
    }
}
