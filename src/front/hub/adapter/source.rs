//! Adapters as the command line names them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::error::{Error, Result, printable};

/// An adapter on the command line: a folder and a factor, `DIR` or `DIR@SCALE`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSource {
    /// The folder that holds `adapter_config.json`.
    pub dir: PathBuf,
    /// The factor of the adapter's own scale.
    pub scale: f32,
}

impl std::str::FromStr for AdapterSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<AdapterSource> {
        AdapterSource::of(text.into())
    }
}

impl AdapterSource {
    /// The same of a path that need not be UTF-8.
    pub fn of(text: OsString) -> Result<AdapterSource> {
        let (dir, scale) = match scaled(&text) {
            Some((dir, scale)) => (dir, scale),
            None => (text.clone(), 1.0),
        };
        // A value too small for 32 bits would be 0.
        if !scale.is_normal() {
            return Err(Error::bad_input(format!(
                "--adapter {}: the scale must be a number of 1.2e-38 to 3.4e38, or one below 0 as large",
                printable(&text.to_string_lossy())
            ))
            .hint("an adapter that is to change nothing is left out"));
        }
        Ok(AdapterSource { dir: PathBuf::from(dir), scale })
    }
}

/// A folder and its scale. A folder may have `@` in its name: the part after the last one is a scale only if it is a number.
#[cfg(unix)]
fn scaled(text: &OsStr) -> Option<(OsString, f32)> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = text.as_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b'@')?;
    let scale = str::from_utf8(bytes.get(at + 1..)?).ok()?.parse().ok()?;
    Some((OsStr::from_bytes(bytes.get(..at)?).to_owned(), scale))
}

#[cfg(not(unix))]
fn scaled(text: &OsStr) -> Option<(OsString, f32)> {
    let (dir, scale) = text.to_str()?.rsplit_once('@')?;
    Some((dir.into(), scale.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_follows_the_last_at_sign() {
        let parse = |text: &str| text.parse::<AdapterSource>().unwrap();
        assert_eq!(parse("lora@0.7"), AdapterSource { dir: "lora".into(), scale: 0.7 });
        assert_eq!(parse("me@home"), AdapterSource { dir: "me@home".into(), scale: 1.0 });
        for scale in ["inf", "nan", "0", "-0.0", "1e-400", "1e-40", "1e39"] {
            let said = format!("lora@{scale}").parse::<AdapterSource>().unwrap_err();
            assert!(said.message().starts_with(&format!("--adapter lora@{scale}: the scale must be")), "{said}");
        }
        assert_eq!(parse("lora@-0.5").scale, -0.5);
    }
}
