//! Signatures of folders, in the form of OpenSSF's model signing 1.0: what `model_signing sign key` writes is verified
//! here, and the other way round.

mod envelope;
mod keys;
mod statement;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::FileEntry;
use crate::error::{Error, Kind, Result, printable};
use crate::json;

pub use envelope::open;
pub use keys::{Curve, PrivateKey, PublicKey};
pub use statement::{Resource, SIGNATURE, read as read_statement};

/// Longest signature that is read, in bytes. A file takes about 200.
pub const LONGEST: u64 = 16 << 20;

/// The text of a signature of files, under their common name.
pub fn sign(name: &str, files: &[FileEntry], key: &PrivateKey) -> Result<String> {
    envelope::seal(statement::write(name, files)?.as_bytes(), key)
}

/// Checks that a signature is the key's, and that it is of these files and of no others. Files that the signature says
/// were left out when it was made are not left out here: who signs a model for its users signs all of it.
pub fn verify(signature: &Path, key: &PublicKey, files: &[FileEntry]) -> Result<()> {
    let check = || {
        let file = json::file_name(signature);
        let payload = envelope::open(&read(signature)?, &file, key)?;
        let payload = String::from_utf8(payload).map_err(|_| Error::bad_input("the signed statement is not UTF-8"))?;
        let signed = statement::read(&payload, "the signed statement")?;
        compare(&signed, files)
    };
    check().map_err(|e: Error| e.at(signature.display().to_string()))
}

fn compare(signed: &[statement::Resource], files: &[FileEntry]) -> Result<()> {
    let mut found: BTreeMap<&str, &str> = files
        .iter()
        .map(|file| (file.path.as_str(), file.sha256.as_str()))
        .filter(|(path, _)| *path != SIGNATURE)
        .collect();
    for resource in signed {
        let name = printable(&resource.name);
        match found.remove(resource.name.as_str()) {
            None => return Err(Error::bad_input(format!("`{name}` was signed and is missing"))),
            Some(digest) if !digest.eq_ignore_ascii_case(&resource.digest) => {
                return Err(Error::bad_input(format!("`{name}` is not the file that was signed")));
            }
            Some(_) => {}
        }
    }
    match found.keys().next() {
        None => Ok(()),
        Some(path) => Err(Error::bad_input(format!("`{}` was not signed", printable(path)))),
    }
}

/// Whether a file is a signature, which another may replace. Fails where it cannot be read.
pub fn is_signature(path: &Path) -> Result<bool> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Form {
        media_type: String,
    }
    let form = read(path).and_then(|text| json::parse::<Form>(&text, SIGNATURE));
    match form {
        Err(e) if e.kind() == Kind::MachineFailed => Err(e),
        form => Ok(form.is_ok_and(|form| form.media_type == envelope::MEDIA_TYPE)),
    }
}

/// The text of a signature. Fails where it is longer than [`LONGEST`].
fn read(path: &Path) -> Result<String> {
    let failed = |e: std::io::Error| Error::io("reading", path, &e);
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::bad_input(format!("{} is no plain file", path.display())));
    }
    let mut text = String::new();
    let read = File::open(path).map_err(failed)?.take(LONGEST + 1).read_to_string(&mut text).map_err(failed)?;
    match read as u64 > LONGEST {
        true => Err(Error::bad_input(format!("the signature is longer than {LONGEST} bytes"))),
        false => Ok(text),
    }
}
