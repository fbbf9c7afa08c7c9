//! The accepted forms of a zip archive.

use super::build::*;
use super::*;

const DATA: &str = "m/data.pkl";

fn good() -> Vec<u8> {
    saved(&dict(&[("w", pair())]), &[("0", &floats(&[1., 2.]))])
}

/// Where the header of an entry begins.
fn local(bytes: &[u8], name: &str) -> usize {
    bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() - 30
}

/// Where an entry begins in the directory.
fn central(bytes: &[u8], name: &str) -> usize {
    bytes.windows(name.len()).rposition(|window| window == name.as_bytes()).unwrap() - 46
}

/// The message for the good archive after bytes of an entry's header and of its line in the directory were set.
fn changed(name: &str, local_bytes: &[(usize, u8)], central_bytes: &[(usize, u8)]) -> String {
    let mut bytes = good();
    let (local, central) = (local(&bytes, name), central(&bytes, name));
    for (offset, byte) in local_bytes {
        bytes[local + offset] = *byte;
    }
    for (offset, byte) in central_bytes {
        bytes[central + offset] = *byte;
    }
    refusal(bytes)
}

/// The same for a byte of the end record.
fn changed_end(offset: usize, byte: u8) -> String {
    let mut bytes = good();
    let end = bytes.len() - 22;
    bytes[end + offset] = byte;
    refusal(bytes)
}

/// The good archive with the storage's numbers in 64 bits, as they are where a file is longer than 4 GiB.
fn wide() -> Vec<u8> {
    let mut bytes = good();
    let (data, entry) = (local(&bytes, "m/data/0") + 30 + "m/data/0".len(), central(&bytes, "m/data/0"));
    let header = local(&bytes, "m/data/0") as u64;
    let most = [0xff; 4];
    let crc: [u8; 4] = bytes[entry + 16..entry + 20].try_into().unwrap();
    let extra = [&[1, 0, 24, 0][..], &8u64.to_le_bytes(), &8u64.to_le_bytes(), &header.to_le_bytes()].concat();
    for (at, value) in [(20, most), (24, most), (42, most)] {
        bytes[entry + at..entry + at + 4].copy_from_slice(&value);
    }
    (bytes[entry + 8], bytes[entry + 30]) = (8, 28);
    let end = bytes.len() - 22;
    bytes.splice(end..end, extra);
    let start = header as usize;
    bytes[start + 6] = 8;
    bytes[start + 14..start + 26].fill(0);
    let descriptor = [b"PK\x07\x08", &crc[..], &8u64.to_le_bytes(), &8u64.to_le_bytes()].concat();
    bytes.splice(data + 8..data + 8, descriptor);
    let end = bytes.len() - 22;
    for (at, more) in [(12, 28), (16, 24)] {
        let field = &mut bytes[end + at..end + at + 4];
        let old = u32::from_le_bytes(field.try_into().unwrap());
        field.copy_from_slice(&(old + more).to_le_bytes());
    }
    bytes
}

#[test]
fn sizes_in_64_bits_are_read() {
    let tensors = parse(Arc::new(wide())).unwrap();
    assert_eq!(contents(&tensors)["w"], ("f32[2]".to_owned(), floats(&[1., 2.])));
    let mut bytes = wide();
    let at = central(&bytes, "m/data/0") + 46 + "m/data/0".len() + 4;
    bytes[at] = 9;
    assert_eq!(refusal(bytes), "8 bytes are stored, but the size is 9");
}

#[test]
fn an_archive_without_descriptors_is_read() {
    let tensors = parse(Arc::new(good())).unwrap();
    assert_eq!(contents(&tensors)["w"], ("f32[2]".to_owned(), floats(&[1., 2.])));
}

#[test]
fn entries_are_stored_and_open() {
    let storage = "m/data/0";
    assert_eq!(changed(storage, &[(6, 1)], &[(8, 1)]), "the entry is encrypted");
    let deflated = "the entry is compressed (deflate); PyTorch stores entries as they are";
    assert_eq!(changed(storage, &[(8, 8)], &[(10, 8)]), deflated);
    // A bomb: few bytes that say they are 4 GB. It is refused before anything is made of them.
    assert_eq!(changed(storage, &[(8, 8)], &[(10, 8), (24, 0xff), (25, 0xff), (26, 0xff), (27, 0xff)]), deflated);
    let other = "the entry is compressed (method 12); PyTorch stores entries as they are";
    assert_eq!(changed(storage, &[(8, 12)], &[(10, 12)]), other);
    assert_eq!(changed(storage, &[], &[(24, 9)]), "8 bytes are stored, but the size is 9");
}

#[test]
fn the_two_headers_of_an_entry_agree() {
    let cases = [
        (6, "the entry's two headers disagree about its flags"),
        (8, "the entry's two headers disagree about its method"),
        (14, "the entry's two headers disagree about its checksum"),
        (18, "the entry's two headers disagree about its size"),
        (22, "the entry's two headers disagree about its size"),
        (30, "the entry's two headers disagree about its name"),
        (0, "no entry begins at byte "),
    ];
    for (offset, expected) in cases {
        let found = changed("m/data/0", &[(offset, 0x55)], &[]);
        assert!(found.starts_with(expected), "{offset}: {found}");
    }
}

#[test]
fn checksums_are_checked() {
    let mut bytes = good();
    let data = local(&bytes, "m/data/0") + 30 + "m/data/0".len();
    bytes[data] ^= 1;
    let found = refusal(bytes);
    assert!(found.starts_with("the entry's checksum is ") && found.contains(", expected "), "{found}");
    let zero = |start: usize| (start..start + 4).map(|at| (at, 0)).collect::<Vec<_>>();
    assert_eq!(changed("m/data/0", &zero(14), &zero(16)), "the entry has no checksum");
}

#[test]
fn data_descriptors_agree() {
    let bytes = std::fs::read(fixture("seqcls-bin/pytorch_model.bin")).unwrap();
    let descriptor = bytes.windows(4).position(|window| window == b"PK\x07\x08").unwrap();
    for offset in [0, 4, 8, 12] {
        let mut bytes = bytes.clone();
        bytes[descriptor + offset] ^= 1;
        let expected = "the size or checksum behind the entry's data disagrees with its header";
        assert_eq!(refusal(bytes), expected, "{offset}");
    }
}

#[test]
fn entries_share_no_bytes_and_no_names() {
    let mut bytes = good();
    let (first, second) = (central(&bytes, DATA), central(&bytes, "m/data/0"));
    bytes.copy_within(first + 42..first + 46, second + 42);
    assert_eq!(refusal(bytes), "the entry overlaps another");
    let data = pickle(&dict(&[]));
    assert_eq!(refusal(archive(&[(DATA, &data), (DATA, &data)])), "duplicate entry `m/data.pkl`");
    assert_eq!(refusal(archive(&[(DATA, &data), ("n/data/0", &[])])), "the archive has two top folders, `m` and `n`");
    assert_eq!(refusal(archive(&[("data.pkl", &data)])), "the entry `data.pkl` is in no folder of the archive");
}

#[test]
fn entries_lie_in_the_file() {
    let found = changed(DATA, &[], &[(20, 0xff), (21, 0xff), (24, 0xff), (25, 0xff)]);
    assert_eq!(found, "the entry's two headers disagree about its size");
    let wide: Vec<(usize, u8)> = (18..26).map(|at| (at, 0x7f)).collect();
    let directory: Vec<(usize, u8)> = (20..28).map(|at| (at, 0x7f)).collect();
    assert_eq!(changed(DATA, &wide, &directory), "the entry's 2139062143 bytes at 0 leave the archive");
    assert_eq!(changed(DATA, &[], &[(44, 0x7f)]), "4 bytes are announced, 0 are left");
    assert_eq!(changed(DATA, &[], &[(0, 0)]), "an entry does not begin as entries do");
    assert_eq!(changed(DATA, &[], &[(34, 1)]), "the entry is on another disk");
    assert_eq!(changed(DATA, &[], &[(46, 0xff)]), "the name of an entry is not UTF-8");
}

#[test]
fn no_bytes_are_before_between_or_behind_entries() {
    let cut = "the archive does not end with its end record";
    let bytes = good();
    assert_eq!(refusal(bytes[..bytes.len() - 1].to_vec()), cut);
    assert_eq!(refusal([&bytes[..], b"x"].concat()), cut);
    assert_eq!(refusal(b"PK\x03\x04".to_vec()), cut);
    assert_eq!(changed_end(4, 1), "the archive has several disks or a comment");
    assert_eq!(changed_end(20, 1), "the archive has several disks or a comment");
    assert!(changed_end(12, 1).starts_with("the archive's directory is 1 bytes at "));
    assert!(changed_end(8, 3).starts_with("the archive's directory is "));
    let mut counts = good();
    let end = counts.len() - 22;
    (counts[end + 8], counts[end + 10]) = (3, 3);
    assert_eq!(refusal(counts), "the archive's directory has 2 entries, its end says 3");
}

#[test]
fn the_two_end_records_agree() {
    let bytes = std::fs::read(fixture("seqcls-bin/pytorch_model.bin")).unwrap();
    let end = bytes.len() - 22;
    let changed = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        refusal(bytes)
    };
    assert_eq!(changed(end + 12), "the archive's two end records disagree");
    assert_eq!(changed(end - 20 + 8), "the archive's 64-bit end record is not where its locator says");
    assert_eq!(changed(end - 76), "the archive's 64-bit end record is not where its locator says");
    assert_eq!(changed(end - 76 + 4), "the archive's 64-bit end record is not where its locator says");
    assert_eq!(changed(end - 76 + 32), "the archive's two end records disagree");
}

#[test]
fn records_are_those_of_a_state_dict() {
    let data = pickle(&dict(&[]));
    let with = |name: &str, bytes: &[u8]| refusal(archive(&[(DATA, &data), (name, bytes)]));
    assert!(parse(Arc::new(archive(&[(DATA, &data), ("m/byteorder", b"little")]))).unwrap().is_empty());
    assert_eq!(with("m/byteorder", b"big"), "the file was written on a big-endian machine");
    assert_eq!(with("m/byteorder", b"?"), "the record `byteorder` says neither `little` nor `big`");
    let script = "the file is a TorchScript program, expected a dict of tensors";
    assert_eq!(with("m/constants.pkl", b""), script);
    assert_eq!(with("m/code/__torch__.py", b""), script);
    let mut deflated = archive(&[(DATA, &data), ("m/code/x.py", b"")]);
    let entry = central(&deflated, "m/code/x.py");
    deflated[entry + 10] = 8;
    assert_eq!(refusal(deflated), script);
    assert_eq!(refusal(archive(&[("m/x", b"")])), "`m/data.pkl` is missing");
}
