//! Archives: the same bytes every time, and nothing in them is believed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, EntryType, Header};

use super::{bundle, contents, refusal};
use crate::common::{kilnc, names, place};

fn packed(dir: &Path) -> (PathBuf, PathBuf) {
    let (bundle, archive) = (bundle(dir), dir.join("tiny.tar"));
    kilnc(arguments!["bundle", "pack", bundle, "-o", archive]).expect(0);
    (bundle, archive)
}

/// The entries of an archive.
fn entries(archive: &Path) -> Vec<(String, Vec<u8>)> {
    let mut reader = Archive::new(fs::File::open(archive).unwrap());
    let entry = |entry: std::io::Result<tar::Entry<fs::File>>| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
    };
    reader.entries().unwrap().map(entry).collect()
}

/// A header with any fields; `tar` itself would refuse some of the names.
fn header(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

/// Writes an archive of files, and what `more` adds.
fn write(to: &Path, files: &[(String, Vec<u8>)], more: impl FnOnce(&mut Builder<fs::File>)) {
    let mut builder = Builder::new(fs::File::create(to).unwrap());
    for (name, bytes) in files {
        builder.append(&header(name, EntryType::Regular, bytes.len() as u64), &bytes[..]).unwrap();
    }
    more(&mut builder);
    builder.finish().unwrap();
}

#[test]
fn a_bundle_is_packed_and_unpacked_with_its_signature() {
    let place = place();
    let (bundle, archive) = packed(place.path());
    let first = fs::read(&archive).unwrap();
    let order: Vec<_> = entries(&archive).into_iter().map(|(name, _)| name).collect();
    assert_eq!(order[..3], ["manifest.json", "bom.cdx.json", "engines/ort-cpu-fp32.onnx"]);
    fs::File::open(bundle.join("tokenizer.json")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    kilnc(arguments!["bundle", "pack", bundle, "-o", archive]).expect(0);
    assert_eq!(fs::read(&archive).unwrap(), first);

    let key = place.path().join("key.pem");
    kilnc(arguments!["bundle", "keygen", "-o", key]).expect(0);
    kilnc(arguments!["bundle", "sign", bundle, "--key", key]).expect(0);
    kilnc(arguments!["bundle", "pack", bundle, "-o", archive]).expect(0);
    let out = place.path().join("again.kiln");
    let public = place.path().join("key.pem.pub");
    kilnc(arguments!["bundle", "unpack", archive, "--key", public, "-o", out]).expect(0);
    assert_eq!(contents(&out), contents(&bundle));
    kilnc(arguments!["run", out, "--text", "the movie"]).expect(0);
}

#[test]
fn an_archive_that_differs_from_its_manifest_is_not_unpacked() {
    let place = place();
    let (_, archive) = packed(place.path());
    let files = entries(&archive);
    let bad = place.path().join("bad.tar");
    let said = |files: &[(String, Vec<u8>)]| {
        write(&bad, files, |_| {});
        let out = place.path().join("out.kiln");
        let said = refusal(kilnc(arguments!["bundle", "unpack", bad, "-o", out]), place.path());
        assert_eq!(names(place.path()), ["bad.tar", "tiny.kiln", "tiny.tar"], "{said}");
        said
    };
    let with = |name: &str| [&files[..], &[(name.to_owned(), b"x".to_vec())]].concat();
    for name in ["../x", "/etc/passwd", "a/../../x", "a\\..\\x", "c:x"] {
        assert!(said(&with(name)).starts_with(&format!("`{name}` leads out of the bundle\n  in bad.tar\n")));
    }
    assert!(said(&with("extra")).starts_with("the manifest does not list `extra`\n"));
    assert!(said(&with("tokenizer.json")).starts_with("duplicate `tokenizer.json` in the archive\n"));
    assert!(
        said(&with("Tokenizer.json"))
            .starts_with("`tokenizer.json` and `Tokenizer.json` are one name on many systems\n")
    );
    assert!(said(&with("Engines/x")).starts_with("`engines` and `Engines` are one name on many systems\n"));
    assert!(said(&with("engines")).starts_with("`engines` is a file and a folder\n"));
    assert!(said(&with("tokenizer.json/x")).starts_with("`tokenizer.json` is a file and a folder\n"));
    assert!(said(&with("./")).starts_with("a file without a name\n"));
    let without: Vec<_> = files.iter().filter(|(name, _)| name != "tokenizer.json").cloned().collect();
    assert!(said(&without).starts_with("`tokenizer.json` is missing, and the manifest lists it\n"));
    assert!(said(&files[1..]).starts_with("the archive has no manifest.json: it is no bundle\n"));
    let mut changed = files.clone();
    changed.last_mut().unwrap().1.push(b' ');
    assert!(said(&changed).starts_with("`tokenizer.json` is not the file that the manifest describes\n"));
    let mut manifest = files.clone();
    manifest[0].1 = b"{\"schema\": 7}".to_vec();
    assert!(said(&manifest).starts_with("manifest.json: schema: invalid type: integer `7`, expected a string"));
}

#[test]
fn only_plain_files_are_unpacked() {
    let place = place();
    let (_, archive) = packed(place.path());
    let files = entries(&archive);
    let bad = place.path().join("bad.tar");
    let unpack = |archive: &Path| {
        let ran = kilnc(arguments!["bundle", "unpack", archive, "-o", place.path().join("out.kiln")]);
        assert!(!place.path().join("out.kiln").exists());
        refusal(ran, place.path())
    };
    let kinds = [
        (EntryType::Symlink, "a symbolic link"),
        (EntryType::Link, "a hard link"),
        (EntryType::Char, "a device"),
        (EntryType::Block, "a device"),
        (EntryType::Fifo, "a pipe"),
        (EntryType::GNUSparse, "an extension of tar (type 'S')"),
        (EntryType::GNULongName, "an extension of tar (type 'L')"),
        (EntryType::XHeader, "an extension of tar (type 'x')"),
    ];
    for (kind, summary) in kinds {
        write(&bad, &files, |builder| {
            let mut link = header("x", kind, 0);
            link.as_old_mut().linkname[..2].copy_from_slice(b"..");
            link.set_cksum();
            builder.append(&link, &b""[..]).unwrap();
        });
        let said = unpack(&bad);
        assert!(said.starts_with(&format!("`x` is {summary}; a bundle has plain files only\n")), "{said}");
    }
    let mut bytes = fs::read(&archive).unwrap();
    let end = bytes.len() - 1024;
    bytes.splice(end.., header("x", EntryType::Regular, 1 << 40).as_bytes().iter().copied());
    fs::write(&bad, &bytes).unwrap();
    let said = unpack(&bad);
    assert!(said.starts_with("`x` has 1099511627776 bytes announced, 0 are left in the archive\n"), "{said}");
    fs::write(&bad, &bytes[..5000]).unwrap();
    assert!(unpack(&bad).contains(" bytes announced, "));
    bytes[150] ^= 1;
    fs::write(&bad, &bytes).unwrap();
    assert!(unpack(&bad).starts_with("this is no tar archive, or a damaged one: archive header checksum mismatch\n"));
    for (magic, by) in [(&b"\x1f\x8b\x08\x00"[..], "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh9", "bzip2")] {
        fs::write(&bad, magic).unwrap();
        assert!(unpack(&bad).starts_with(&format!("the archive is compressed by {by}\n")));
    }
}

#[test]
fn an_archive_by_tar_itself_is_unpacked() {
    let place = place();
    let bundle = bundle(place.path());
    let archive = place.path().join("by-tar.tar");
    let made = std::process::Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&bundle).arg(".").status();
    assert!(made.unwrap().success());
    let out = place.path().join("again.kiln");
    kilnc(arguments!["bundle", "unpack", archive, "-o", out]).expect(0);
    assert_eq!(contents(&out), contents(&bundle));
}

#[test]
fn an_archive_has_to_be_unpacked_before_use() {
    let place = place();
    let (_, archive) = packed(place.path());
    let texts: [&[&str]; 4] = [&["run", "--text", "x"], &["bench"], &["inspect"], &["verify"]];
    for command in texts {
        let mut all = vec![std::ffi::OsString::from(command[0]), archive.clone().into()];
        all.extend(command[1..].iter().map(Into::into));
        let said = refusal(kilnc(all), place.path());
        let expected =
            "tiny.tar is an archive, and engines are opened in a folder\n\nhint: kilnc bundle unpack tiny.tar -o DIR\n";
        assert_eq!(said, expected, "{}", command[0]);
    }
    let inside =
        arguments!["bundle", "pack", place.path().join("tiny.kiln"), "-o", place.path().join("tiny.kiln/x.tar")];
    assert!(refusal(kilnc(inside), place.path()).contains(" is inside the input "));
}
