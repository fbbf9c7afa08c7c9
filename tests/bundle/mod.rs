//! `kilnc bundle`: signatures, archives, exports and refusals.

mod archive;
mod export;
mod peers;
mod reproducible;
mod signing;

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, fixture, kilnc};

/// A small bundle with engines in 32 and in 8 bits.
fn bundle(dir: &Path) -> PathBuf {
    let out = dir.join("tiny.kiln");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "ort-cpu", "--quantize", "int8", "-o", out, "--quiet"])
        .expect(0);
    out
}

/// The error of a run that failed as bad input, without the folder it ran in.
#[track_caller]
fn refusal(ran: Ran, place: &Path) -> String {
    let said = ran.expect(2).stderr.replace(&format!("{}/", place.display()), "");
    said.strip_prefix("error: ").unwrap_or(&said).to_owned()
}

/// All files of a folder, with their bytes.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    fn walk(dir: &Path, prefix: &str, into: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), &format!("{name}/"), into),
                false => into.push((name, fs::read(entry.path()).unwrap())),
            }
        }
    }
    let mut files = Vec::new();
    walk(dir, "", &mut files);
    files.sort();
    files
}
