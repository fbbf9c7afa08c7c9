//! The accepted forms of the stream of before PyTorch 1.6.

use super::build::*;
use super::*;

fn object() -> Vec<u8> {
    dict(&[("w", pair())])
}

#[test]
fn a_stream_is_read() {
    let tensors = parse(Arc::new(stream(&object(), &["0"], &elements(&[1., 2.])))).unwrap();
    assert_eq!(contents(&tensors)["w"], ("f32[2]".to_owned(), floats(&[1., 2.])));
}

#[test]
fn storages_are_those_of_the_object() {
    let two = elements(&[1., 2.]);
    let twice = [two.clone(), two.clone()].concat();
    let mixed = dict(&[("w", pair()), ("v", tensor(storage("LongStorage", "0", 2), 0, &[2], &[1]))]);
    let cases = [
        (stream(&object(), &[], &[]), "tensor `w`: its storage `0` is missing"),
        (stream(&object(), &["0", "1"], &twice), "storage `1` belongs to no tensor"),
        (stream(&object(), &["0", "0"], &twice), "duplicate storage `0`"),
        (stream(&object(), &["0"], &elements(&[1.])), "1 elements, expected 2"),
        (stream(&object(), &["0"], &two[..4]), "8 bytes are announced, 4 are left"),
        (stream(&object(), &["0"], &two[..15]), "8 bytes are announced, 7 are left"),
        (stream(&object(), &["0"], &twice), "16 bytes follow the last storage"),
        (stream(&mixed, &["0"], &two), "storage `0` has two types or sizes"),
    ];
    for (bytes, expected) in cases {
        assert_eq!(refusal(bytes), expected);
    }
}

#[test]
fn the_pickles_before_the_storages_are_checked() {
    let of = |version: Vec<u8>, system: Vec<u8>, keys: Vec<u8>| {
        let pickles = [version, system, object(), keys].map(|body| pickle(&body));
        refusal([legacy::MAGIC, &pickles.concat()].concat())
    };
    let system = |little: &[u8]| dict(&[("little_endian", little.to_vec())]);
    let keys = || list(&[text("0")]);
    let good = || system(b"\x88");
    assert_eq!(of(int(1000), good(), keys()), "the protocol version is 1000, expected 1001");
    assert_eq!(of(text("1001"), good(), keys()), "the protocol version is no integer");
    assert_eq!(of(int(1001), system(b"\x89"), keys()), "the file was written on a big-endian machine");
    assert_eq!(of(int(1001), dict(&[]), keys()), "the system info does not say `little_endian`");
    assert_eq!(of(int(1001), good(), dict(&[])), "the storage keys are a dict, expected a list");
    assert_eq!(of(int(1001), good(), list(&[int(0)])), "a storage key is an integer");
    assert_eq!(refusal(legacy::MAGIC.to_vec()), "1 bytes are announced, 0 are left");
    let evil = [legacy::MAGIC, &pickle(&global("os", "system"))].concat();
    assert_eq!(refusal(evil), "the pickle calls `os.system`, which kilnc does not run");
}
