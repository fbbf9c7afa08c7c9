//! The small files of a model: those of a folder, or those that a reader has made of one file that holds everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::json;
use crate::presence;

/// Texts by the names that they have in the Hub's layout, wherever they come from. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folder {
    path: PathBuf,
    /// The texts that were made of the file at `path`; none where `path` is a folder.
    made: Option<Arc<BTreeMap<String, String>>>,
}

impl Folder {
    /// Texts that were made of the file at `path`, by their names.
    pub fn made(path: &Path, texts: BTreeMap<String, String>) -> Folder {
        Folder { path: path.to_owned(), made: Some(Arc::new(texts)) }
    }

    /// The folder, or the file that the texts were made of.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a text is, or would be: for messages.
    pub fn place(&self, name: &str) -> PathBuf {
        match self.made {
            Some(_) => self.path.clone(),
            None => self.path.join(name),
        }
    }

    /// The file that is a text of that name; none where it was made of another.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.made.is_none().then(|| self.path.join(name))
    }

    /// Whether there is a text of that name. Fails as [`presence::has_file`] does.
    pub fn has(&self, name: &str) -> Result<bool> {
        match &self.made {
            Some(texts) => Ok(texts.contains_key(name)),
            None => presence::has_file(&self.path.join(name)),
        }
    }

    /// Those of several names of which there are texts, in their order.
    pub fn files_of<'a>(&self, names: &[&'a str]) -> Result<Vec<&'a str>> {
        let mut found = Vec::new();
        for name in names {
            if self.has(name)? {
                found.push(*name);
            }
        }
        Ok(found)
    }

    /// The text of that name. Fails as [`json::read_text`] does.
    pub fn text(&self, name: &str) -> Result<String> {
        match &self.made {
            Some(texts) => {
                let none = || Error::bad_input(format!("{} has no {name}", self.path.display()));
                texts.get(name).cloned().ok_or_else(none)
            }
            None => json::read_text(&self.path.join(name)),
        }
    }

    /// Reads a text as JSON. Errors name it and the field.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        json::parse(&self.text(name)?, &json::file_name(Path::new(name)))
    }

    /// The names of the texts in a folder below, as `within/name`, sorted; more than `most` of them are refused.
    pub fn names_below(&self, within: &str, extension: &str, most: usize) -> Result<Vec<String>> {
        let is_one = |name: &str| Path::new(name).extension().is_some_and(|found| found == extension);
        let mut names: Vec<String> = match &self.made {
            Some(texts) => {
                let below = |name: &&String| name.strip_prefix(within).is_some_and(|rest| rest.starts_with('/'));
                texts.keys().filter(below).filter(|name| is_one(name)).cloned().collect()
            }
            None => on_disk(&self.path.join(within), is_one, most)?
                .into_iter()
                .map(|name| format!("{within}/{name}"))
                .collect(),
        };
        if names.len() > most {
            return Err(Error::unsupported(format!("{} has more than {most} of them", self.place(within).display())));
        }
        names.sort();
        Ok(names)
    }

    /// Writes a text of that name below the folder `to`.
    pub fn copy(&self, name: &str, to: &Path) -> Result<()> {
        let target = to.join(name);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io("writing to", parent, &e))?;
        }
        let from = self.place(name);
        let copied = match self.made {
            Some(_) => std::fs::write(&target, self.text(name)?),
            None => std::fs::copy(&from, &target).map(drop),
        };
        copied.map_err(|e| Error::io("copying", &from, &e))
    }
}

/// The names of the plain files in a folder that are such, until there are more than `most`.
fn on_disk(folder: &Path, is_one: impl Fn(&str) -> bool, most: usize) -> Result<Vec<String>> {
    if !presence::is_dir(folder)? {
        return Ok(Vec::new());
    }
    let failed = |e: std::io::Error| Error::io("reading", folder, &e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = json::file_name(&path);
        if is_one(&name) && presence::has_file(&path)? {
            names.push(name);
        }
        if names.len() > most {
            break;
        }
    }
    Ok(names)
}

impl From<&Path> for Folder {
    fn from(path: &Path) -> Folder {
        Folder { path: path.to_owned(), made: None }
    }
}

impl From<PathBuf> for Folder {
    fn from(path: PathBuf) -> Folder {
        Folder { path, made: None }
    }
}

impl From<&PathBuf> for Folder {
    fn from(path: &PathBuf) -> Folder {
        Folder::from(path.as_path())
    }
}

impl From<&Folder> for Folder {
    fn from(folder: &Folder) -> Folder {
        folder.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_texts_are_found_as_files_are() {
        let place = tempfile::tempdir().unwrap();
        let texts = [("config.json", r#"{"a": 1}"#), ("more/x.jinja", "x"), ("more/y.txt", "y")];
        for (name, text) in texts {
            std::fs::create_dir_all(place.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(place.path().join(name), text).unwrap();
        }
        let made = texts.map(|(name, text)| (name.to_owned(), text.to_owned())).into_iter().collect();
        let folders = [Folder::from(place.path()), Folder::made(Path::new("model.gguf"), made)];
        for folder in &folders {
            assert_eq!(folder.files_of(&["none.json", "config.json"]).unwrap(), ["config.json"]);
            let fields: BTreeMap<String, u8> = folder.read("config.json").unwrap();
            assert_eq!(fields["a"], 1);
            assert_eq!(folder.names_below("more", "jinja", 1).unwrap(), ["more/x.jinja"]);
            assert_eq!(folder.names_below("none", "jinja", 1).unwrap(), [""; 0]);
            let error = folder.names_below("more", "jinja", 0).unwrap_err();
            assert!(error.message().ends_with("has more than 0 of them"), "{error}");
            let to = tempfile::tempdir().unwrap();
            folder.copy("more/x.jinja", to.path()).unwrap();
            assert_eq!(std::fs::read_to_string(to.path().join("more/x.jinja")).unwrap(), "x");
            assert!(folder.text("none.json").is_err());
        }
        assert_eq!(folders[1].place("config.json"), Path::new("model.gguf"));
        assert_eq!((folders[0].file("a").is_some(), folders[1].file("a")), (true, None));
    }
}
