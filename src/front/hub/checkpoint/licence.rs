//! The stated licence of a folder in the Hub layout: in the front matter of its README.md, in its
//! configuration, or by a file with the text.

use std::fs::File;
use std::io::Read;

use saphyr_parser::{Event, Parser};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::front::folder::Folder;
use crate::json;
use crate::presence;

/// How much of README.md is read, in bytes; the front matter of the Hub's is shorter.
const READ: u64 = 1 << 16;

/// Names of files with the text of a licence.
const TEXTS: [&str; 6] = ["LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING"];

/// A licence, as far as it is stated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Licence {
    /// Its name, as written in the folder: the Hub's names are SPDX's in small letters.
    pub name: Option<String>,
    /// The file that states it.
    pub from: Option<&'static str>,
}

/// A folder's licence. A README that is not understood is ignored: it is no part of the model. Fails where
/// a file that may state it cannot be read.
pub fn of(folder: impl Into<Folder>) -> Result<Licence> {
    let folder = &folder.into();
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        license: Option<String>,
    }
    if let Some(name) = front_matter(folder)?.and_then(|text| stated(&text)) {
        return Ok(Licence { name: Some(name), from: Some("README.md") });
    }
    if is_there(folder, "config.json")?
        && let Ok(Config { license: Some(name) }) = json::parse(&folder.text("config.json")?, "config.json")
    {
        return Ok(Licence { name: Some(name), from: Some("config.json") });
    }
    for name in TEXTS {
        if is_there(folder, name)? {
            return Ok(Licence { name: None, from: Some(name) });
        }
    }
    Ok(Licence::default())
}

/// Whether a folder has a plain file of that name; another thing of that name is none.
fn is_there(folder: &Folder, name: &str) -> Result<bool> {
    match folder.file(name) {
        Some(path) => presence::is_file(&path),
        None => folder.has(name),
    }
}

/// The front matter of README.md: the lines between two `---`.
fn front_matter(folder: &Folder) -> Result<Option<String>> {
    let Some(path) = folder.file("README.md") else { return Ok(None) };
    if !presence::is_file(&path)? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(READ).read_to_end(&mut bytes));
    read.map_err(|e| Error::io("reading", &path, &e))?;
    Ok(between_marks(&String::from_utf8_lossy(&bytes)))
}

/// The front matter of a text: the lines between two `---`.
fn between_marks(text: &str) -> Option<String> {
    let mut lines = text.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut inside = String::new();
    for line in lines {
        if line.trim_end() == "---" {
            return Some(inside);
        }
        inside += line;
        inside.push('\n');
    }
    None
}

/// The licence in a front matter: `license`, one or several; where that is `other`, `license_name`.
pub fn stated(text: &str) -> Option<String> {
    let of = |key| {
        let mut names = top_level(text, key)?;
        names.retain(|name| !["", "~", "null"].contains(&name.as_str()));
        (!names.is_empty()).then(|| names.join(", "))
    };
    let licence = of("license");
    if licence.as_deref() == Some("other") { of("license_name").or(licence) } else { licence }
}

/// The scalars under a key of a YAML mapping: one, or those of a list. Nothing is expanded: aliases are left out.
fn top_level(text: &str, key: &str) -> Option<Vec<String>> {
    let (mut depth, mut at_key, mut found) = (0_usize, true, None);
    for event in Parser::new_from_str(text) {
        match event.ok()?.0 {
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => {
                depth = depth.checked_sub(1)?;
                if depth == 1 && found.is_some() {
                    return found;
                }
                at_key = depth == 1;
            }
            Event::Scalar(value, ..) if depth == 1 && at_key => {
                found = (value == key).then(Vec::new);
                at_key = false;
            }
            Event::Scalar(value, ..) => {
                if let Some(names) = found.as_mut() {
                    names.push(value.into_owned());
                    if depth == 1 {
                        return found;
                    }
                }
                at_key = depth == 1 || at_key;
            }
            Event::Alias(_) if depth == 1 => at_key = !at_key,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_front_matter_states_one_licence_or_several() {
        let said = |text: &str| stated(text);
        assert_eq!(said("language: en\nlicense: apache-2.0\ntags:\n- a\n").as_deref(), Some("apache-2.0"));
        assert_eq!(said("tags: [license, x]\nlicense:\n- mit\n- cc-by-4.0\n").as_deref(), Some("mit, cc-by-4.0"));
        assert_eq!(said("license: other\nlicense_name: llama3\n").as_deref(), Some("llama3"));
        assert_eq!(said("license: other\n").as_deref(), Some("other"));
        assert_eq!(said("model:\n  license: mit\nother: license\n"), None);
        assert_eq!(said("license: []\n"), None);
        assert_eq!(said("license:\nlanguage: en\n"), None);
        assert_eq!(said("a: &a [x]\nb: *a\nlicense: mit\n").as_deref(), Some("mit"));
        assert_eq!(said("license: \"mit\n"), None);
    }

    #[test]
    fn the_readme_comes_first_and_a_text_alone_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(of(dir.path()).unwrap(), Licence::default());
        write("LICENSE", "Permission is hereby granted");
        assert_eq!(of(dir.path()).unwrap(), Licence { name: None, from: Some("LICENSE") });
        write("config.json", "{\"license\": \"mit\"}");
        assert_eq!(of(dir.path()).unwrap(), Licence { name: Some("mit".to_owned()), from: Some("config.json") });
        write("README.md", "# A model\n---\nlicense: gpl-3.0\n---\n");
        assert_eq!(of(dir.path()).unwrap().name.as_deref(), Some("mit"));
        write("README.md", "---\r\nlicense: apache-2.0\r\n---\r\n# A model\n");
        assert_eq!(of(dir.path()).unwrap(), Licence { name: Some("apache-2.0".to_owned()), from: Some("README.md") });
    }

    #[test]
    fn a_front_matter_has_a_length() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("---\nx: {}\nlicense: mit\n---\n", "y".repeat(READ as usize));
        std::fs::write(dir.path().join("README.md"), text).unwrap();
        assert_eq!(of(dir.path()).unwrap(), Licence::default());
        let nested = format!("---\n{}\n---\n", "[".repeat(60_000));
        std::fs::write(dir.path().join("README.md"), nested).unwrap();
        assert_eq!(of(dir.path()).unwrap(), Licence::default());
    }
}
