//! The tensors that are read, bit by bit, and the message of each refusal.

mod archives;
mod build;
mod mutations;
mod pickles;
mod streams;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::ir::{DType, weight::Expr};
use crate::safetensors;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/bert").join(path)
}

fn refusal(bytes: Vec<u8>) -> String {
    parse(Arc::new(bytes)).unwrap_err().message().to_owned()
}

/// Type and bytes of every tensor, by name.
fn contents(tensors: &[(String, Weight)]) -> BTreeMap<&str, (String, Vec<u8>)> {
    let content = |w: &Weight| (w.ty().to_string(), w.evaluate().unwrap().as_bytes().to_vec());
    tensors.iter().map(|(name, weight)| (name.as_str(), content(weight))).collect()
}

fn assert_same(torch: &[(String, Weight)], reference: &str) {
    let reference = safetensors::read(&fixture(reference)).unwrap();
    let (found, expected) = (contents(torch), contents(&reference));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, content) in expected {
        assert!(found[name] == content, "{name}");
    }
}

#[test]
fn both_forms_hold_bit_by_bit_what_safetensors_hold() {
    assert_same(&read(&fixture("seqcls-bin/pytorch_model.bin")).unwrap(), "seqcls/model.safetensors");
    let mut legacy = read(&fixture("seqcls-bin-legacy/pytorch_model.bin")).unwrap();
    let ids = legacy.iter().position(|(name, _)| name == "bert.embeddings.position_ids").unwrap();
    let (_, ids) = legacy.remove(ids);
    let positions: Vec<u8> = (0..40i64).flat_map(i64::to_le_bytes).collect();
    assert_eq!((ids.ty().to_string(), ids.evaluate().unwrap().as_bytes()), ("i64[1, 40]".to_owned(), &positions[..]));
    assert_same(&legacy, "seqcls/model.safetensors");
    let shards: Vec<_> = (1..=4)
        .flat_map(|i| read(&fixture(&format!("seqcls-bin-sharded/pytorch_model-0000{i}-of-00004.bin"))).unwrap())
        .collect();
    assert_same(&shards, "seqcls/model.safetensors");
}

#[test]
fn tied_tensors_share_their_bytes_in_the_file() {
    let tensors = read(&fixture("mlm-bin/pytorch_model.bin")).unwrap();
    let place = |name: &str| {
        let (_, weight) = tensors.iter().find(|(found, _)| found == name).unwrap();
        let Expr::Source { data: Some(blob), .. } = weight.expr() else { panic!("{name} is not in the file") };
        blob.bytes().as_ptr()
    };
    assert_eq!(place("cls.predictions.decoder.weight"), place("bert.embeddings.word_embeddings.weight"));
    let untied = |name: &str| name != "cls.predictions.decoder.weight" && name != "cls.predictions.decoder.bias";
    let tensors: Vec<_> = tensors.iter().filter(|(name, _)| untied(name)).cloned().collect();
    assert_same(&tensors, "mlm/model.safetensors");
}

#[test]
fn other_files_than_torch_saves_are_named() {
    let mut tar = vec![0; 512];
    tar[257..263].copy_from_slice(b"ustar ");
    let cases: [(&[u8], &str); 5] = [
        (&tar, "the file is a tar archive, the form of PyTorch before 0.2"),
        (b"\x80\x02}q\x00.", "the file is a pickle, but not one of PyTorch"),
        (b"\x80\x04\x95", "the file is a pickle, but not one of PyTorch"),
        (b"", "the file is neither a zip archive nor a stream of PyTorch"),
        (b"version https://git-lfs", "the file is neither a zip archive nor a stream of PyTorch"),
    ];
    for (bytes, expected) in cases {
        assert_eq!(refusal(bytes.to_vec()), expected);
    }
}

#[test]
fn a_pickle_under_the_name_of_safetensors_is_refused() {
    for folder in ["seqcls-bin", "seqcls-bin-legacy"] {
        let bytes = std::fs::read(fixture(folder).join("pytorch_model.bin")).unwrap();
        let error = safetensors::parse(Arc::new(bytes)).unwrap_err();
        assert!(error.message().ends_with("bytes, at most 100000000 are admitted"), "{error}");
    }
}

#[test]
fn an_error_names_the_location_in_the_file_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pytorch_model.bin");
    std::fs::write(&path, build::saved(&build::global("os", "system"), &[])).unwrap();
    let error = read(&path).unwrap_err();
    assert_eq!(error.message(), "the pickle calls `os.system`, which kilnc does not run");
    assert_eq!(error.locations(), ["data.pkl, byte 2", "pytorch_model.bin"]);
    assert_eq!(error.hints(), ["re-save as safetensors: model.save_pretrained(DIR, safe_serialization=True)"]);
    std::fs::write(&path, "PK\x03\x04").unwrap();
    let error = read(&path).unwrap_err();
    assert_eq!(error.message(), "the archive does not end with its end record");
    assert_eq!(error.hints(), ["the file is damaged or cut short; fetch it again"]);
}
