//! What engines are calibrated on: the table `[calibration]` of recipes and the flags of the command line.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::Estimator;
use super::sample::Sampling;
use super::saved::EXTENSION;
use crate::error::{Error, Result};

/// The default number of texts that are chosen by their nearness to a domain.
const SAMPLES: usize = 256;

/// What 8-bit engines are calibrated on. In a recipe it is the name of a file, or a table with these keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spec {
    /// Texts of the task, inputs that were tokenized elsewhere, or saved calibration; built-in texts, where it is not
    /// set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Texts of a domain: those texts of the file are taken that are most like them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like: Option<PathBuf>,
    /// How many texts of the file are taken; all, where neither this nor `like` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// The seed of the sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The column or field that holds the texts, if it is not called `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// How ranges are found that are fixed when an engine is made; from the lowest to the highest number, where it is not
    /// set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Estimator>,
    /// Where the statistics are saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save: Option<PathBuf>,
}

/// The kind of file that engines are calibrated on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `.jsonl`, `.csv`, `.txt` and the like.
    Texts,
    /// `.npz`
    Inputs,
    /// `.kcal`
    Saved,
}

impl Kind {
    /// The kind by a file's extension.
    pub fn of(path: &Path) -> Kind {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npz") => Kind::Inputs,
            Some(EXTENSION) => Kind::Saved,
            _ => Kind::Texts,
        }
    }
}

impl Spec {
    /// The texts of a file, all of them.
    pub fn file(path: PathBuf) -> Spec {
        Spec { file: Some(path), ..Spec::default() }
    }

    /// The paths in it.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [&mut self.file, &mut self.like, &mut self.save].into_iter().flatten()
    }

    /// The sample of the file; none, where all of it is used.
    pub fn sampling(&self) -> Option<Sampling> {
        let samples = self.samples.or(self.like.is_some().then_some(SAMPLES))?;
        Some(Sampling { samples, seed: self.seed.unwrap_or(0) })
    }

    /// Fails where a key changes nothing, beside the others or beside that kind of file.
    pub fn check(&self) -> Result<()> {
        let kind = self.file.as_deref().map(Kind::of);
        let set = [
            ("like", self.like.is_some(), matches!(kind, Some(Kind::Texts))),
            ("text_column", self.text_column.is_some(), matches!(kind, Some(Kind::Texts))),
            ("samples", self.samples.is_some(), matches!(kind, Some(Kind::Texts | Kind::Inputs))),
            ("seed", self.seed.is_some(), matches!(kind, Some(Kind::Texts | Kind::Inputs))),
        ];
        let what = match kind {
            None => "there is no file".to_owned(),
            Some(Kind::Texts) => String::new(),
            Some(Kind::Inputs) => "a .npz file holds no texts".to_owned(),
            Some(Kind::Saved) => format!("a .{EXTENSION} file holds statistics, and no texts"),
        };
        if let Some((key, ..)) = set.iter().find(|(_, set, fits)| *set && !fits) {
            return Err(Error::bad_input(format!("calibration: `{key}` has nothing to choose from: {what}")));
        }
        if self.seed.is_some() && self.sampling().is_none() {
            return Err(Error::bad_input("calibration: `seed` changes nothing without `samples` or `like`"));
        }
        if self.samples == Some(0) {
            return Err(Error::bad_input("calibration: `samples` must be 1 or more"));
        }
        match &self.save {
            Some(path) if Kind::of(path) != Kind::Saved => Err(Error::bad_input(format!(
                "calibration: {} does not end in .{EXTENSION}, the extension of such files",
                path.display()
            ))),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Spec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Spec, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            file: Option<PathBuf>,
            like: Option<PathBuf>,
            samples: Option<usize>,
            seed: Option<u64>,
            text_column: Option<String>,
            ranges: Option<Estimator>,
            save: Option<PathBuf>,
        }

        struct FileOrTable;

        impl<'de> Visitor<'de> for FileOrTable {
            type Value = Spec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a file, or a table with `file`")
            }

            fn visit_str<E>(self, file: &str) -> Result<Spec, E> {
                Ok(Spec::file(file.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Spec, A::Error> {
                let Table { file, like, samples, seed, text_column, ranges, save } =
                    Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Spec { file, like, samples, seed, text_column, ranges, save })
            }
        }

        deserializer.deserialize_any(FileOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: &Spec) -> String {
        spec.check().unwrap_err().message().to_owned()
    }

    #[test]
    fn options_without_effect_are_refused() {
        let texts = Spec::file("corpus.jsonl".into());
        texts.check().unwrap();
        Spec { like: Some("domain.csv".into()), seed: Some(7), ..texts.clone() }.check().unwrap();
        Spec { samples: Some(9), ..Spec::file("x.npz".into()) }.check().unwrap();
        assert_eq!(
            refused(&Spec { seed: Some(7), ..texts.clone() }),
            "calibration: `seed` changes nothing without `samples` or `like`"
        );
        assert_eq!(refused(&Spec { samples: Some(0), ..texts.clone() }), "calibration: `samples` must be 1 or more");
        assert_eq!(
            refused(&Spec { samples: Some(9), ..Spec::default() }),
            "calibration: `samples` has nothing to choose from: there is no file"
        );
        assert_eq!(
            refused(&Spec { samples: Some(9), ..Spec::file("x.kcal".into()) }),
            "calibration: `samples` has nothing to choose from: a .kcal file holds statistics, and no texts"
        );
        assert_eq!(
            refused(&Spec { like: Some("d.txt".into()), ..Spec::file("x.npz".into()) }),
            "calibration: `like` has nothing to choose from: a .npz file holds no texts"
        );
        assert_eq!(
            refused(&Spec { save: Some("seen.bin".into()), ..texts }),
            "calibration: seen.bin does not end in .kcal, the extension of such files"
        );
    }
}
