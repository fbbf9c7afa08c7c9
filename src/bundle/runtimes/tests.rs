//! Small wheels, sound and bad, made by the tests themselves.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest, Sha256};
use zip::write::{SimpleFileOptions, ZipWriter};

use super::wheel::LARGEST;
use super::{Found, LibraryEntry, Package, packages, take};
use crate::error::{Error, Result};
use crate::runtime::{Platform, Runtime};

const LIBRARY: &str = "onnxruntime/capi/libonnxruntime.so.1.32.0";
const SHARED: &str = "onnxruntime/capi/libonnxruntime_providers_shared.so";
const INFO: &str = "onnxruntime-1.32.0.dist-info";

/// The first bytes of a library, and some more.
fn library(platform: Platform) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    let mut put = |at: usize, with: &[u8]| bytes[at..at + with.len()].copy_from_slice(with);
    match platform {
        Platform::LinuxX64 | Platform::LinuxArm64 => {
            put(0, b"\x7fELF\x02\x01\x01");
            put(16, &[3, 0, if platform == Platform::LinuxX64 { 62 } else { 183 }, 0]);
        }
        Platform::WindowsX64 => {
            put(0, b"MZ");
            put(0x3c, &[0x80, 0, 0, 0]);
            put(0x80, b"PE\0\0\x64\x86");
            put(0x96, &[0x22, 0x20]);
        }
        Platform::MacosArm64 => put(0, &[0xcf, 0xfa, 0xed, 0xfe, 12, 0, 0, 1, 0, 0, 0, 0, 6, 0, 0, 0]),
    }
    bytes
}

/// The files of a wheel of ONNX Runtime, which a test may change before they are written.
struct Made {
    files: Vec<(String, Vec<u8>)>,
    /// Replaces the record of the files.
    record: Option<String>,
    /// A file that is a link.
    link: Option<&'static str>,
}

impl Made {
    fn new(platform: Platform) -> Made {
        let library = library(platform);
        let (name, shared) = match platform {
            Platform::WindowsX64 => ("onnxruntime.dll", Some("onnxruntime_providers_shared.dll")),
            Platform::MacosArm64 => ("libonnxruntime.1.32.0.dylib", None),
            _ => ("libonnxruntime.so.1.32.0", Some("libonnxruntime_providers_shared.so")),
        };
        let metadata =
            "Metadata-Version: 2.4\nName: onnxruntime\nVersion: 1.32.0\nLicense: MIT License\n\nLicense: no\n";
        let tag = format!("Wheel-Version: 1.0\nTag: cp312-cp312-{}\n", platform.tag());
        let mut files = vec![
            ("onnxruntime/__init__.py".to_owned(), b"print()".to_vec()),
            ("onnxruntime/LICENSE".to_owned(), b"MIT".to_vec()),
            ("onnxruntime/ThirdPartyNotices.txt".to_owned(), b"others".to_vec()),
            ("onnxruntime/capi/onnxruntime_pybind11_state.so".to_owned(), library.clone()),
            (format!("onnxruntime/capi/{name}"), library.clone()),
            (format!("{INFO}/METADATA"), metadata.into()),
            (format!("{INFO}/WHEEL"), tag.into()),
        ];
        files.extend(shared.map(|shared| (format!("onnxruntime/capi/{shared}"), library)));
        Made { files, record: None, link: None }
    }

    fn put(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Made {
        self.files.retain(|(other, _)| other != name);
        self.files.push((name.to_owned(), bytes.into()));
        self
    }

    fn without(mut self, name: &str) -> Made {
        self.files.retain(|(other, _)| other != name);
        self
    }

    /// Changes the record that fits the files.
    fn recording(mut self, change: impl Fn(String) -> String) -> Made {
        let line = |(name, bytes): &(String, Vec<u8>)| {
            let digest = Base64UrlUnpadded::encode_string(&Sha256::digest(bytes));
            format!("{name},sha256={digest},{}\n", bytes.len())
        };
        let record: String = self.files.iter().map(line).collect();
        self.record = Some(change(format!("{record}{INFO}/RECORD,,\n")));
        self
    }

    fn write(self, path: &Path) {
        let made = if self.record.is_some() { self } else { self.recording(|record| record) };
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        let options = SimpleFileOptions::default();
        for (name, bytes) in &made.files {
            if made.link.is_some_and(|link| link == name) {
                zip.add_symlink(name, std::str::from_utf8(bytes).unwrap(), options).unwrap();
            } else {
                zip.start_file(name, options).unwrap();
                zip.write_all(bytes).unwrap();
            }
        }
        zip.start_file(format!("{INFO}/RECORD"), options).unwrap();
        zip.write_all(made.record.unwrap().as_bytes()).unwrap();
        zip.finish().unwrap();
    }
}

fn ort(platform: Platform) -> Package {
    packages(Runtime::Ort, platform).remove(0)
}

/// Copies from a wheel that `write` puts at its argument.
fn taken(platform: Platform, write: impl FnOnce(&Path)) -> (tempfile::TempDir, Result<LibraryEntry>) {
    let dir = tempfile::tempdir().unwrap();
    let wheel = dir.path().join(format!("onnxruntime-1.32.0-cp312-cp312-{}.whl", platform.tag()));
    write(&wheel);
    let taken = take(&Found { package: ort(platform), wheel }, &dir.path().join("bundle"));
    (dir, taken)
}

/// The error for a made wheel.
#[track_caller]
fn refused(made: Made) -> String {
    message(taken(Platform::LinuxX64, |path| made.write(path)).1)
}

#[track_caller]
fn message(taken: Result<LibraryEntry>) -> String {
    let error: Error = taken.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert_eq!(error.locations(), ["onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl"], "{error}");
    assert!(
        error.hints()[0].starts_with("remove it, and get it again with: python3 -m pip download --no-deps "),
        "{error}"
    );
    error.message().to_owned()
}

fn sound() -> Made {
    Made::new(Platform::LinuxX64)
}

#[test]
fn libraries_and_notices_are_taken_and_nothing_else() {
    for platform in Platform::ALL {
        let (dir, entry) = taken(platform, |path| Made::new(platform).write(path));
        let entry = entry.unwrap();
        let root = format!("runtimes/{platform}/onnxruntime/onnxruntime");
        assert_eq!(entry.notices, ["LICENSE", "ThirdPartyNotices.txt"].map(|name| format!("{root}/{name}")));
        assert!(entry.files.iter().all(|file| file.starts_with(&format!("{root}/capi/"))), "{entry:?}");
        assert_eq!(entry.files.len(), if platform == Platform::MacosArm64 { 1 } else { 2 });
        assert_eq!((entry.licence.as_deref(), entry.version.as_str()), (Some("MIT License"), "1.32.0"));
        assert_eq!((entry.wheel.sha256.len(), entry.package.as_str()), (64, "onnxruntime"));
        let mut there = crate::bundle::digest_tree(&dir.path().join("bundle")).unwrap();
        there.sort_by(|a, b| a.path.cmp(&b.path));
        let mut listed: Vec<&String> = entry.files.iter().chain(&entry.notices).collect();
        listed.sort();
        assert_eq!(there.iter().map(|file| &file.path).collect::<Vec<_>>(), listed);
        for file in &entry.files {
            assert_eq!(std::fs::read(dir.path().join("bundle").join(file)).unwrap(), library(platform));
        }
    }
}

#[test]
fn texts_of_licences_are_taken_from_beside_the_metadata_too() {
    let made = sound().put(&format!("{INFO}/licenses/other/BSD.txt"), "BSD").put(&format!("{INFO}/NOTICE"), "notice");
    let notices = taken(Platform::LinuxX64, |path| made.write(path)).1.unwrap().notices;
    let root = "runtimes/linux-x64/onnxruntime";
    assert_eq!(notices[..2], [format!("{root}/{INFO}/NOTICE"), format!("{root}/{INFO}/licenses/other/BSD.txt")]);
    assert_eq!(notices.len(), 4);
}

#[test]
fn a_file_that_is_no_wheel_is_refused() {
    let bytes = |bytes: Vec<u8>| message(taken(Platform::LinuxX64, |path| std::fs::write(path, bytes).unwrap()).1);
    let mut whole = Vec::new();
    let (_dir, sound) = taken(Platform::LinuxX64, |path| {
        sound().write(path);
        whole = std::fs::read(path).unwrap();
    });
    sound.unwrap();
    for bad in [Vec::new(), b"PK\x03\x04".to_vec(), whole[..whole.len() / 2].to_vec(), vec![0; 1000]] {
        let said = bytes(bad);
        assert!(said.starts_with("this is no wheel, or a damaged one: "), "{said}");
    }
    let error = taken(Platform::LinuxX64, |path| std::fs::create_dir(path).unwrap()).1.unwrap_err();
    assert!(error.message().ends_with("manylinux_2_28_x86_64.whl is no plain file"), "{error}");
}

#[test]
fn a_wheel_that_was_damaged_is_refused() {
    let (_dir, taken) = taken(Platform::LinuxX64, |path| {
        sound().put(LIBRARY, [library(Platform::LinuxX64), b"needle".repeat(9)].concat()).write(path);
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.windows(LIBRARY.len()).position(|window| window == LIBRARY.as_bytes()).unwrap();
        bytes[at + LIBRARY.len() + 20] ^= 0x55;
        std::fs::write(path, bytes).unwrap();
    });
    let said = message(taken);
    assert!(said.starts_with(&format!("`{LIBRARY}` is damaged: ")), "{said}");
}

#[test]
fn a_wheel_of_another_name_version_or_platform_is_refused() {
    let metadata = |text: &str| refused(sound().put(&format!("{INFO}/METADATA"), text));
    assert_eq!(
        metadata("Name: onnxruntime-gpu\nVersion: 1.32.0\n"),
        "the wheel is of onnxruntime-gpu 1.32.0, expected onnxruntime==1.32.0"
    );
    assert_eq!(
        metadata("Name: onnxruntime\nVersion: 1.9.0\n"),
        "the wheel is of onnxruntime 1.9.0, expected onnxruntime==1.32.0"
    );
    assert_eq!(
        refused(Made::new(Platform::MacosArm64)),
        "the wheel is for macosx_14_0_arm64, expected one for linux-x64"
    );
    let other = sound().without(&format!("{INFO}/METADATA")).recording(|record| record.replace(INFO, "x.dist-info"));
    assert_eq!(refused(other), format!("`{INFO}/METADATA` is not in the wheel's RECORD"));
    let gpu = |path: &Path| {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        zip.start_file("onnxruntime_gpu-1.32.0.dist-info/RECORD", SimpleFileOptions::default()).unwrap();
        zip.finish().unwrap();
    };
    assert_eq!(
        message(taken(Platform::LinuxX64, gpu).1),
        format!("this is no wheel of that name: it has no {INFO}/RECORD")
    );
}

#[test]
fn a_library_for_another_platform_is_refused_in_any_wheel() {
    let said = |bytes: Vec<u8>| refused(sound().put(LIBRARY, bytes)).replace(&format!("`{LIBRARY}`: it is "), "");
    for other in [Platform::LinuxArm64, Platform::WindowsX64, Platform::MacosArm64] {
        assert_eq!(said(library(other)), format!("a library for {other}, expected one for linux-x64"));
    }
    let mut program = library(Platform::LinuxX64);
    program[16] = 2;
    assert_eq!(said(program), "an ELF file of type 2 for the machine 62, expected a library for linux-x64");
    let mut windows = library(Platform::WindowsX64);
    windows[0x97] = 0;
    assert_eq!(said(windows), "a program for Windows, expected a library for linux-x64");
    let fat = [0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 2];
    assert_eq!(said(fat.to_vec()), "a library for several processors, expected a library for linux-x64");
    for bad in [&b""[..], b"\x7fELF", b"MZ", b"#!/bin/sh\n"] {
        assert_eq!(said(bad.to_vec()), "no shared library, expected one for linux-x64");
    }
}

#[test]
fn a_file_that_the_record_does_not_describe_is_refused() {
    let record = |change: fn(String) -> String| refused(sound().recording(change));
    let md5 = record(|record| record.replace("so.1.32.0,sha256=", "so.1.32.0,md5="));
    assert!(md5.starts_with(&format!("RECORD: `{LIBRARY}` has the digest `md5=")), "{md5}");
    let other = |record: String| {
        let of = |bytes: &[u8]| Base64UrlUnpadded::encode_string(&Sha256::digest(bytes));
        record.replace(&of(&library(Platform::LinuxX64)), &of(b"other"))
    };
    assert_eq!(record(other), format!("`{LIBRARY}` is not the file that RECORD describes"));
    assert_eq!(record(|record| record.replace(LIBRARY, "x")), format!("`{LIBRARY}` is not in the wheel's RECORD"));
    let twice = record(|record| record.repeat(2));
    assert_eq!(twice, "RECORD: duplicate `onnxruntime/__init__.py`");
}

#[test]
fn a_bomb_is_not_unpacked() {
    let zeros = vec![0; 64 << 20];
    let bomb = sound().recording(|record| record).put(LIBRARY, zeros.clone());
    assert_eq!(refused(bomb), format!("`{LIBRARY}` has more bytes than the 256 that RECORD says"));
    let announced = sound().recording(|record| record.replace(",256\n", &format!(",{}\n", LARGEST + 1)));
    assert_eq!(refused(announced), format!("`{LIBRARY}` has {} bytes, at most {LARGEST} are read", LARGEST + 1));
    let fewer = sound().recording(|record| record.replace(",256\n", ",257\n"));
    assert_eq!(refused(fewer), format!("`{LIBRARY}` has fewer bytes than the 257 that RECORD says"));
    let record = sound().recording(|_| "\n".repeat(9 << 20));
    assert_eq!(refused(record), "RECORD has over 8388608 bytes");
    let licence = sound().put("onnxruntime/LICENSE", zeros);
    assert_eq!(refused(licence), "`onnxruntime/LICENSE` has 67108864 bytes, at most 16777216 are read");
    let mut many = sound();
    many.files.extend((0..1 << 14).map(|i| (format!("onnxruntime/{i}"), Vec::new())));
    assert_eq!(refused(many), "the wheel has 16393 files, at most 16384 are read");
}

#[test]
fn a_wheel_with_a_name_that_leads_out_is_refused() {
    for name in ["../x", "onnxruntime/../../x", "/etc/x", "C:/x", "onnxruntime\\x", "onnxruntime//x", "./x"] {
        let said = refused(sound().put(name, "x"));
        assert_eq!(said, format!("`{name}` leads out of the wheel"));
    }
}

#[test]
fn a_link_in_place_of_a_library_is_refused() {
    let mut linked = sound().put(LIBRARY, "../../../etc/passwd");
    linked.link = Some(LIBRARY);
    assert_eq!(refused(linked), format!("`{LIBRARY}` is a link, expected a file"));
}

#[test]
fn missing_and_duplicate_files_are_refused() {
    assert_eq!(refused(sound().without(LIBRARY)), "the wheel has no `onnxruntime/capi/libonnxruntime.so.…`");
    assert_eq!(refused(sound().without(SHARED)), format!("the wheel has no `{SHARED}…`"));
    let other = "onnxruntime/capi/libonnxruntime.so.1.33.0";
    let two = sound().put(other, library(Platform::LinuxX64));
    assert_eq!(refused(two), format!("the wheel has `{LIBRARY}` and `{other}`"));
    let (_dir, taken) = taken(Platform::LinuxX64, |path| {
        sound().put("onnxruntime/capi/libonnxruntime.so.1.32.1", "x").write(path);
        let bytes = std::fs::read(path).unwrap();
        let replaced = replace(bytes, b"libonnxruntime.so.1.32.1", b"libonnxruntime.so.1.32.0");
        std::fs::write(path, replaced).unwrap();
    });
    assert_eq!(message(taken), "duplicate file in the wheel");
}

#[test]
fn a_wheel_without_the_text_of_a_licence_is_refused() {
    let bare = sound().without("onnxruntime/LICENSE").without("onnxruntime/ThirdPartyNotices.txt");
    assert_eq!(refused(bare), "the wheel has no text of a licence, without which its libraries cannot be passed on");
    let capitals = sound().put("onnxruntime/license", "x");
    assert_eq!(refused(capitals), "the names of two texts of licences differ by capitals only");
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_wheel_that_was_damaged_at_random_is_taken_as_it_was_or_refused(
        flips in prop::collection::vec((any::<Index>(), 1_u8..), 0..4),
        cut in prop::option::weighted(0.2, any::<Index>()),
    ) {
        let (dir, taken) = taken(Platform::LinuxX64, |path| {
            sound().write(path);
            let mut bytes = std::fs::read(path).unwrap();
            flips.iter().for_each(|(at, with)| bytes[at.index(path.metadata().unwrap().len() as usize)] ^= with);
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            std::fs::write(path, bytes).unwrap();
        });
        match taken {
            Ok(entry) => for file in &entry.files {
                prop_assert_eq!(std::fs::read(dir.path().join("bundle").join(file)).unwrap(), library(Platform::LinuxX64));
            },
            Err(e) => {
                prop_assert_eq!(e.exit_code(), 2, "{}", e);
                prop_assert!(!e.message().contains(char::is_control), "{:?}", e.message());
            }
        }
    }
}

fn replace(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    for at in 0..bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
    bytes
}
