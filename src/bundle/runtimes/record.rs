//! A wheel's records of its files: `RECORD`, and the lines of `METADATA` and `WHEEL`.
//!
//! The formats: PyPA's “Recording installed projects” and “Core metadata”.

use std::collections::BTreeMap;

use base64ct::{Base64UrlUnpadded, Encoding};

use crate::digest::hex;
use crate::error::{Error, Result, printable};

/// A file's line of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// SHA-256, in hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// Reads a record. Files without a digest, such as the record itself, are left out.
pub fn parse(text: &str) -> Result<BTreeMap<String, Recorded>> {
    let mut recorded = BTreeMap::new();
    let mut lines = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    for line in lines.records() {
        let line = line.map_err(|e| Error::bad_input(printable(&e.to_string())))?;
        let [path, digest, bytes] = [0, 1, 2].map(|i| line.get(i).unwrap_or_default());
        let printed = printable(path);
        if line.len() != 3 {
            return Err(Error::bad_input(format!("`{printed}` has {} fields, expected 3", line.len())));
        }
        if digest.is_empty() {
            continue;
        }
        let malformed =
            || Error::bad_input(format!("`{printed}` has the digest `{}`, expected sha256=…", printable(digest)));
        let mut raw = [0; 32];
        let decoded = digest.strip_prefix("sha256=").and_then(|text| Base64UrlUnpadded::decode(text, &mut raw).ok());
        let sha256 = decoded.filter(|raw| raw.len() == 32).map(hex).ok_or_else(malformed)?;
        let bytes = bytes.parse().map_err(|_| Error::bad_input(format!("`{printed}` has no length")))?;
        if recorded.insert(path.to_owned(), Recorded { sha256, bytes }).is_some() {
            return Err(Error::bad_input(format!("duplicate `{printed}`")));
        }
    }
    Ok(recorded)
}

/// The values of a field of metadata, before its text begins.
pub fn fields<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let head = text.lines().take_while(|line| !line.trim().is_empty());
    head.filter_map(move |line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_with_their_digests() {
        let text = "a.py,sha256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0,3\n\"b,c\",sha256=\
                    47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\nx.dist-info/RECORD,,\n";
        let recorded = parse(text).unwrap();
        assert_eq!(recorded.keys().collect::<Vec<_>>(), ["a.py", "b,c"]);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(recorded["a.py"], Recorded { sha256: abc.to_owned(), bytes: 3 });
    }

    #[test]
    fn a_record_that_is_malformed_is_refused() {
        let said = |text: &str| parse(text).unwrap_err().message().to_owned();
        assert_eq!(said("a,md5=abc,3\n"), "`a` has the digest `md5=abc`, expected sha256=…");
        assert_eq!(said("a,sha256=abc,3\n"), "`a` has the digest `sha256=abc`, expected sha256=…");
        assert_eq!(said("a,sha256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0,-1\n"), "`a` has no length");
        assert_eq!(said("a\n"), "`a` has 1 fields, expected 3");
        let line = "a,sha256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0,3\n";
        assert_eq!(said(&line.repeat(2)), "duplicate `a`");
    }

    #[test]
    fn fields_end_where_the_text_begins() {
        let text = "Name: a\nTag: x\ntag: y\n\nTag: z\n";
        assert_eq!(fields(text, "Tag").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(fields(text, "License").next(), None);
    }
}
