//! The signed statement: an in-toto statement with the digest of every file, as OpenSSF's model signing 1.0 writes it.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bundle::{FileEntry, inside};
use crate::digest::hex;
use crate::error::{Error, Result, printable};
use crate::json;

/// The name of the signature in the folder that it signs. It is no part of what is signed.
pub const SIGNATURE: &str = "model.sig";

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";

/// A file that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its path in the folder.
    pub name: String,
    algorithm: String,
    /// Its SHA-256 in hexadecimal.
    pub digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    form: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Predicate,
}

/// The fields that are read first, to name a statement of another kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(rename = "_type")]
    form: String,
    predicate_type: String,
}

#[derive(Serialize, Deserialize)]
struct Subject {
    name: String,
    digest: Root,
}

#[derive(Serialize, Deserialize)]
struct Root {
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

/// How the folder was read.
#[derive(Serialize, Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    allow_symlinks: bool,
    #[serde(default)]
    ignore_paths: Vec<String>,
}

/// The text of a statement about files, which it sorts by the parts of their paths.
pub fn write(name: &str, files: &[FileEntry]) -> Result<String> {
    let mut files: Vec<&FileEntry> = files.iter().filter(|file| file.path != SIGNATURE).collect();
    files.sort_by_cached_key(|file| file.path.split('/').map(str::to_owned).collect::<Vec<_>>());
    let resource = |file: &&FileEntry| Resource {
        name: file.path.clone(),
        algorithm: "sha256".to_owned(),
        digest: file.sha256.clone(),
    };
    let resources: Vec<Resource> = files.iter().map(resource).collect();
    let statement = Statement {
        form: STATEMENT.to_owned(),
        subject: vec![Subject { name: name.to_owned(), digest: Root { sha256: root(&resources)? } }],
        predicate_type: PREDICATE.to_owned(),
        predicate: Predicate {
            serialization: Serialization {
                method: "files".to_owned(),
                hash_type: "sha256".to_owned(),
                allow_symlinks: false,
                ignore_paths: vec![SIGNATURE.to_owned()],
            },
            resources,
        },
    };
    serde_json::to_string(&statement).map_err(|e| Error::bug(format!("a statement cannot be written: {e}")))
}

/// The files that a statement speaks of. Fails where it is of another kind, or does not agree with itself.
pub fn read(text: &str, file: &str) -> Result<Vec<Resource>> {
    let Kind { form, predicate_type } = json::parse(text, file)?;
    if form != STATEMENT || predicate_type != PREDICATE {
        return Err(Error::unsupported(format!(
            "the signed statement is a `{}` of `{}`, expected `{STATEMENT}` of `{PREDICATE}`",
            printable(&form),
            printable(&predicate_type)
        )));
    }
    let Statement { subject, predicate: Predicate { serialization, resources }, .. } = json::parse(text, file)?;
    if serialization.method != "files" || serialization.hash_type != "sha256" {
        return Err(Error::unsupported(format!(
            "{} were digested by {}, expected files by sha256",
            printable(&serialization.method),
            printable(&serialization.hash_type)
        )));
    }
    let mut names = HashSet::new();
    for resource in &resources {
        let name = printable(&resource.name);
        inside(&resource.name).map_err(|_| Error::bad_input(format!("`{name}` was signed, which leads out")))?;
        if !names.insert(&resource.name) {
            return Err(Error::bad_input(format!("duplicate `{name}` in the signature")));
        }
        if resource.algorithm != "sha256" {
            return Err(Error::unsupported(format!("`{name}` has a digest by {}", printable(&resource.algorithm))));
        }
    }
    match subject.as_slice() {
        [subject] if subject.digest.sha256 == root(&resources)? => Ok(resources),
        [_] => Err(Error::bad_input("the digest of the whole is not that of the files")),
        subjects => Err(Error::bad_input(format!("{} subjects, expected one", subjects.len()))),
    }
}

/// The digest of the whole: SHA-256 over the digests of the files, in their order.
fn root(resources: &[Resource]) -> Result<String> {
    let mut hasher = Sha256::new();
    for resource in resources {
        hasher.update(bytes(&resource.digest).ok_or_else(|| {
            Error::bad_input(format!("the digest of `{}` is no SHA-256 in hexadecimal", printable(&resource.name)))
        })?);
    }
    Ok(hex(&hasher.finalize()))
}

/// 32 bytes out of hexadecimal.
fn bytes(hex: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let digit = |d: u8| char::from(d).to_digit(16).and_then(|d| u8::try_from(d).ok());
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, digit: char) -> FileEntry {
        FileEntry { path: path.to_owned(), bytes: 1, sha256: digit.to_string().repeat(64) }
    }

    fn text() -> String {
        write("m", &[file("a.b", '1'), file("a/b", '2'), file("model.sig", '3')]).unwrap()
    }

    fn said(from: &str, to: &str) -> String {
        let text = text();
        assert!(text.contains(from), "{text}");
        read(&text.replace(from, to), "payload").unwrap_err().message().to_owned()
    }

    #[test]
    fn files_are_sorted_by_the_parts_of_their_paths_and_the_signature_is_none() {
        let names: Vec<_> = read(&text(), "payload").unwrap().into_iter().map(|r| r.name).collect();
        assert_eq!(names, ["a/b", "a.b"]);
    }

    #[test]
    fn a_statement_of_another_kind_is_refused() {
        assert_eq!(
            said("model_signing/signature/v1.0", "slsa.dev/provenance/v1"),
            "the signed statement is a `https://in-toto.io/Statement/v1` of `https://slsa.dev/provenance/v1`, expected \
             `https://in-toto.io/Statement/v1` of `https://model_signing/signature/v1.0`"
        );
        assert_eq!(said("\"files\"", "\"shards\""), "shards were digested by sha256, expected files by sha256");
        assert_eq!(
            said("\"hash_type\":\"sha256\"", "\"hash_type\":\"blake3\""),
            "files were digested by blake3, expected files by sha256"
        );
    }

    #[test]
    fn a_statement_agrees_with_itself_and_stays_inside() {
        assert_eq!(said("\"a.b\"", "\"../b\""), "`../b` was signed, which leads out");
        assert_eq!(said("\"a.b\"", "\"/etc/b\""), "`/etc/b` was signed, which leads out");
        assert_eq!(said("\"a.b\"", "\"a/b\""), "duplicate `a/b` in the signature");
        assert_eq!(said(&"1".repeat(64), &"4".repeat(64)), "the digest of the whole is not that of the files");
        assert_eq!(said(&"1".repeat(64), &"1".repeat(62)), "the digest of `a.b` is no SHA-256 in hexadecimal");
        assert_eq!(said("\"algorithm\":\"sha256\"", "\"algorithm\":\"blake2\""), "`a/b` has a digest by blake2");
        assert_eq!(
            said("\"subject\":[", "\"subject\":[{\"name\":\"\",\"digest\":{\"sha256\":\"\"}},"),
            "2 subjects, expected one"
        );
    }
}
