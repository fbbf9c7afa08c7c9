//! Reading a mutated file ends with tensors or with an error.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::build::*;
use super::*;

/// Pieces of which pickles are made, to be put in any order.
fn pieces() -> Vec<Vec<u8>> {
    let opcodes = b"(.NRQabestuq\x85\x86\x87\x88\x89})]".iter().map(|opcode| vec![*opcode]);
    let names = [("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage")];
    let numbers = [-1, 0, 1, 2, 1 << 20, i64::MAX];
    let wholes = [pair(), ordered(), storage("FloatStorage", "0", 2), dict(&[("w", pair())]), text("storage")];
    opcodes
        .chain(names.map(|(module, name)| global(module, name)))
        .chain(numbers.map(int))
        .chain(wholes)
        .chain([b"h\0".to_vec(), b"q\0".to_vec()])
        .collect()
}

/// Sets bytes, puts pieces in and cuts the end off.
fn mutated(bytes: &[u8], sets: &[(Index, u8)], piece: &Option<(Index, Vec<u8>)>, cut: &Option<Index>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, byte) in sets {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if let Some((at, piece)) = piece {
        let at = at.index(bytes.len());
        bytes.splice(at..at, piece.iter().copied());
    }
    if let Some(at) = cut {
        bytes.truncate(at.index(bytes.len()));
    }
    bytes
}

/// Reads the bytes, and every tensor that they hold.
fn survives(bytes: Vec<u8>) {
    for (_, weight) in parse(Arc::new(bytes)).unwrap_or_default() {
        assert_eq!(weight.evaluate().unwrap().as_bytes().len(), weight.byte_len());
    }
}

type Change = (Vec<(Index, u8)>, Option<(Index, Vec<u8>)>, Option<Index>);

fn change() -> impl Strategy<Value = Change> {
    let byte = prop_oneof![any::<u8>(), select(&b"(.NRQabestuq\x85\x86\x87})]\xff\x7f\0"[..])];
    (
        prop::collection::vec((any::<Index>(), byte), 0..6),
        prop::option::weighted(0.3, (any::<Index>(), select(pieces()))),
        prop::option::weighted(0.1, any::<Index>()),
    )
}

proptest! {
    #[test]
    fn mutated_files_never_panic((sets, piece, cut) in change(), folder in select(&["seqcls-bin", "seqcls-bin-legacy"][..])) {
        let bytes = std::fs::read(fixture(folder).join("pytorch_model.bin")).unwrap();
        survives(mutated(&bytes, &sets, &piece, &cut));
    }

    #[test]
    fn mutated_ends_of_archives_never_panic((sets, piece, _) in change()) {
        let bytes = std::fs::read(fixture("seqcls-bin/pytorch_model.bin")).unwrap();
        let (data, end) = bytes.split_at(bytes.len() - 400);
        survives([data, &mutated(end, &sets, &piece, &None)].concat());
    }

    #[test]
    fn mutated_pickles_never_panic((sets, piece, cut) in change()) {
        let tensor = tensor(storage("FloatStorage", "0", 2), 0, &[2, 1], &[1, 2]);
        let data = pickle(&dict(&[("w", pair()), ("v", tensor)]));
        let data = mutated(&data, &sets, &piece, &cut);
        survives(archive(&[("m/data.pkl", &data), ("m/data/0", &[0; 8])]));
    }

    #[test]
    fn mutated_streams_never_panic((sets, piece, cut) in change()) {
        let bytes = stream(&dict(&[("w", pair())]), &["0"], &elements(&[1., 2.]));
        survives(mutated(&bytes, &sets, &piece, &cut));
    }

    #[test]
    fn pieces_in_any_order_never_panic(soup in prop::collection::vec(select(pieces()), 0..40)) {
        survives(saved(&soup.concat(), &[("0", &[0; 8])]));
    }

    #[test]
    fn views_of_any_shape_never_leave_their_storage(
        offset in 0..5i64,
        (shape, strides) in (0..4usize).prop_flat_map(|rank| {
            let sizes = || prop::collection::vec(0..5i64, rank);
            (sizes(), sizes())
        }),
    ) {
        let values: Vec<f32> = (0..24u8).map(f32::from).collect();
        let body = dict(&[("w", tensor(storage("FloatStorage", "0", 24), offset, &shape, &strides))]);
        let last = offset + shape.iter().zip(&strides).map(|(n, stride)| (n - 1) * stride).sum::<i64>();
        let empty = shape.contains(&0);
        match parse(Arc::new(saved(&body, &[("0", &floats(&values))]))) {
            Err(_) => prop_assert!(!empty && last >= 24),
            Ok(tensors) => {
                prop_assert!(empty || last < 24);
                let expected = strided(offset as usize, &shape, &strides);
                prop_assert_eq!(tensors[0].1.to_f32s().unwrap().into_owned(), expected);
            }
        }
    }
}

/// The elements of a view whose storage counts from 0.
fn strided(offset: usize, shape: &[i64], strides: &[i64]) -> Vec<f32> {
    let (Some((n, shape)), Some((stride, strides))) = (shape.split_first(), strides.split_first()) else {
        return vec![offset as f32];
    };
    (0..*n).flat_map(|i| strided(offset + (i * stride) as usize, shape, strides)).collect()
}
