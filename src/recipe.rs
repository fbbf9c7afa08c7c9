//! What to build, as a TOML file: the same things the command line says, so that a difference shows what changed.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::checkpoint::json::{file_name, read_text};
use crate::error::{Error, Result, printable_sentence};
use crate::eval::Gate;
use crate::precision::Precision;
use crate::target::Target;
use crate::task::Task;

/// A recipe.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The bundle's name; that of the output, where it is not set.
    pub name: Option<String>,
    /// What the model is for; found out from the checkpoint, where it is not set.
    pub task: Option<Task>,
    /// Longest text in tokens; the model's own limit, where it is not set.
    pub max_length: Option<usize>,
    /// A file with one label for each answer, in order.
    pub labels: Option<PathBuf>,
    /// The engines; FP32 for ONNX Runtime and for tract, where there are none.
    #[serde(default, rename = "engine")]
    pub engines: Vec<EngineSpec>,
    /// Outputs of the trained model, which the FP32 engines have to give.
    pub golden: Option<GoldenSpec>,
    /// Texts on which every engine is held against FP32; built-in ones, where there are none.
    pub texts: Option<PathBuf>,
}

/// One engine of a recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSpec {
    /// Where it is to run.
    #[serde(deserialize_with = "from_text")]
    pub target: Target,
    /// Its number format.
    #[serde(default)]
    pub precision: Precision,
    /// What it has to keep.
    #[serde(default)]
    pub gate: Gate,
    /// The shapes that a TensorRT engine takes.
    pub profile: Option<ProfileSpec>,
}

impl EngineSpec {
    /// An engine without bounds or shapes of its own.
    pub fn new(target: Target, precision: Precision) -> EngineSpec {
        EngineSpec { target, precision, gate: Gate::default(), profile: None }
    }

    /// The engine's name in the bundle, e.g. `ort-cpu-int8`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.target.slug(), self.precision)
    }
}

/// Batch and length of the texts that an engine takes: smallest, fastest at, largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileSpec {
    /// Smallest batch and length.
    pub min: [usize; 2],
    /// What the engine is tuned for.
    pub opt: [usize; 2],
    /// Largest batch and length.
    pub max: [usize; 2],
}

impl ProfileSpec {
    /// Batches up to 32 of texts up to the model's limit.
    pub fn up_to(max_length: usize) -> ProfileSpec {
        ProfileSpec { min: [1, 8.min(max_length)], opt: [8, 128.min(max_length)], max: [32, max_length] }
    }
}

/// Outputs to hold the FP32 engines against.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSpec {
    /// A safetensors file with `in.…` and `out.…`.
    pub file: PathBuf,
    /// Largest difference of any element.
    pub max_abs: f64,
}

impl Recipe {
    /// The engines to build: FP32 for ONNX Runtime and for tract, where the recipe has none.
    pub fn engines_or_default(&self) -> Vec<EngineSpec> {
        match self.engines.as_slice() {
            [] => [Target::OrtCpu, Target::Tract].map(|target| EngineSpec::new(target, Precision::Fp32)).to_vec(),
            given => given.to_vec(),
        }
    }

    /// Reads a recipe. Paths in it are taken from the recipe's own folder.
    pub fn read(path: &Path) -> Result<Recipe> {
        let text = read_text(path)?;
        let mut recipe: Recipe = toml::from_str(&text).map_err(|e| {
            let line =
                e.span().and_then(|span| text.get(..span.start)).map_or(1, |before| before.lines().count().max(1));
            Error::bad_input(format!("{} line {line}: {}", file_name(path), printable_sentence(e.message())))
        })?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let golden = recipe.golden.as_mut().map(|golden| &mut golden.file);
        for file in [recipe.labels.as_mut(), recipe.texts.as_mut(), golden].into_iter().flatten() {
            *file = dir.join(&*file);
        }
        Ok(recipe)
    }
}

fn from_text<'de, T: FromStr<Err = Error>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|e: Error| {
        let hints: Vec<_> = e.hints().iter().map(|hint| format!("; {hint}")).collect();
        serde::de::Error::custom(format!("{}{}", e.message(), hints.concat()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Recipe> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.toml");
        std::fs::write(&path, text).unwrap();
        Recipe::read(&path)
    }

    #[test]
    fn paths_are_taken_from_the_recipes_folder() {
        let recipe =
            read("texts = \"a.jsonl\"\n[[engine]]\ntarget = \"tensorrt-rtx:sm75\"\nprecision = \"fp16\"\n").unwrap();
        assert!(recipe.texts.unwrap().is_absolute());
        assert_eq!(recipe.engines[0].name(), "tensorrt-rtx-sm75-fp16");
    }

    #[test]
    fn mistakes_name_file_and_line() {
        let message = |text: &str| read(text).unwrap_err().message().to_owned();
        assert_eq!(
            message("\n[[engine]]\ntarget = \"ort-cpuu\"\n"),
            "r.toml line 3: unknown target `ort-cpuu`; known: ort-cpu, openvino, tract, tensorrt-rtx:smNN; did you mean ort-cpu?"
        );
        assert!(message("taks = \"x\"").starts_with("r.toml line 1: unknown field `taks`"));
    }
}
