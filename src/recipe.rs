//! Recipes: builds as TOML files, with the same settings as the command line, so that a diff shows the changes.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::calibrate;
use crate::error::{Error, Result, printable_sentence};
use crate::eval::Gate;
use crate::front::hub::checkpoint::StatedProblem;
use crate::ir::Role;
use crate::ir::weight::Int8Range;
use crate::json::{file_name, read_text};
use crate::precision::Precision;
use crate::prune;
use crate::runtime::Platform;
use crate::settings::Settings;
use crate::shapes::Shapes;
use crate::target::Target;
use crate::task::id::Task;

/// A recipe.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The bundle's name; that of the output, where it is not set.
    pub name: Option<String>,
    /// The task; taken from the checkpoint, where it is not set.
    pub task: Option<Task>,
    /// Longest text in tokens; the model's own limit, where it is not set.
    pub max_length: Option<usize>,
    /// A file with one label for each class, in order.
    pub labels: Option<PathBuf>,
    /// A classifier's problem type, where the checkpoint does not state it: an adapter's classifier has no config.json.
    pub problem_type: Option<StatedProblem>,
    /// The engines; FP32 for ONNX Runtime and for tract, where there are none.
    #[serde(default, rename = "engine")]
    pub engines: Vec<EngineSpec>,
    /// Outputs of the trained model, which the FP32 engines have to match.
    pub golden: Option<GoldenSpec>,
    /// What 8-bit engines are calibrated on: the name of a file, or a table.
    #[serde(default)]
    pub calibration: calibrate::Spec,
    /// How the trained model is pruned before engines are made of it.
    pub prune: Option<prune::Spec>,
    /// How engines are timed, where they are: the manifest then has their timings.
    pub bench: Option<BenchSpec>,
    /// Texts on which every engine is compared with FP32; by default those of the calibration, or built-in ones.
    pub texts: Option<PathBuf>,
    /// The defaults of texts' windows and of predictions.
    #[serde(default, alias = "answers")]
    pub pipeline: Settings,
    /// Platforms for which the bundle holds the native libraries of its engines, e.g. `linux-x64`.
    #[serde(default, deserialize_with = "from_texts")]
    pub runtimes: Vec<Platform>,
    /// The folder of the wheels that they are taken from; `wheels` in the folder of runtimes, where it is not set.
    pub wheels: Option<PathBuf>,
    /// Whether the build bounds the engines' loss of accuracy, so that texts need labels that the model has.
    #[serde(skip)]
    pub bounds_accuracy: bool,
    /// The name of the file that it was read from, for messages.
    #[serde(skip)]
    pub file: Option<String>,
    /// Warnings about its text.
    #[serde(skip)]
    pub remarks: Vec<String>,
}

/// Old names of tables, which are read for one more version, and their names now.
const RENAMED: [(&str, &str); 1] = [("answers", "pipeline")];

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
    /// Linear layers that stay in full precision, e.g. `ffn-out/3`, in every number format.
    #[serde(default, deserialize_with = "from_texts")]
    pub keep: Vec<Role>,
    /// Whether weights of 8-bit layers use half of the integers, so that no sum saturates on x86 processors without VNNI.
    /// Where it is not set, they do on the targets whose sums saturate there.
    pub reduce_range: Option<bool>,
    /// Its bounds.
    #[serde(default, deserialize_with = "gate")]
    pub gate: Gate,
    /// The shapes that a TensorRT engine takes, a profile each; batches up to 32 of texts up to the longest, where there
    /// are none.
    #[serde(default, deserialize_with = "from_texts")]
    pub shapes: Vec<Shapes>,
}

impl EngineSpec {
    /// An engine without bounds or shapes of its own.
    pub fn new(target: Target, precision: Precision) -> EngineSpec {
        EngineSpec {
            target,
            precision,
            keep: Vec::new(),
            reduce_range: None,
            gate: Gate::default(),
            shapes: Vec::new(),
        }
    }

    /// The engine's name in the bundle, e.g. `ort-cpu-int8`.
    pub fn name(&self) -> String {
        let full = if self.target.saturates(self.precision) && self.range() == Int8Range::Full { "-full" } else { "" };
        format!("{}-{}{full}", self.target.slug(), self.precision)
    }

    /// The integers that weights of its 8-bit layers are rounded to.
    pub fn range(&self) -> Int8Range {
        Int8Range::reduced(self.reduce_range.unwrap_or_else(|| self.target.saturates(self.precision)))
    }
}

/// How engines are timed. In a recipe it is the table `[bench]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BenchSpec {
    /// Texts at once and their length in tokens; the first decides which engine is the fastest.
    pub shapes: Vec<[usize; 2]>,
    /// Rounds in which engines take turns.
    pub rounds: usize,
    /// How long each runs in a round at each shape, in seconds.
    pub seconds: f64,
}

impl Default for BenchSpec {
    fn default() -> BenchSpec {
        BenchSpec { shapes: vec![[1, 128], [8, 128]], rounds: 5, seconds: 0.5 }
    }
}

impl BenchSpec {
    /// Fails where nothing would be measured, or without end.
    pub fn check(&self) -> Result<()> {
        let fits = |[rows, length]: &[usize; 2]| (1..=1024).contains(rows) && (2..=1 << 20).contains(length);
        let wrong = if self.shapes.is_empty() || !self.shapes.iter().all(fits) {
            "shapes: expected pairs of 1…1024 texts and their length in tokens, such as [[1, 128]]"
        } else if !(1..=1000).contains(&self.rounds) {
            "rounds: expected 1…1000"
        } else if !(self.seconds > 0.0 && self.seconds <= 3600.0) {
            "seconds: expected more than 0 and at most 3600"
        } else {
            return Ok(());
        };
        Err(Error::bad_input(format!("bench.{wrong}")))
    }

    /// The shapes with texts that a model can read, each once.
    pub fn shapes_up_to(&self, max_length: usize) -> Vec<[usize; 2]> {
        let mut shapes: Vec<[usize; 2]> = Vec::new();
        for shape in self.shapes.iter().map(|[rows, length]| [*rows, max_length.min(*length)]) {
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        shapes
    }
}

/// Outputs that the FP32 engines are compared with.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSpec {
    /// A safetensors file with `in.…` and `out.…`.
    pub file: PathBuf,
    /// Largest difference of any element.
    #[serde(deserialize_with = "difference")]
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

    /// The files that it names, where nothing else may be written.
    pub fn inputs(&self) -> impl Iterator<Item = &Path> {
        let golden = self.golden.as_ref().map(|golden| &golden.file);
        let calibrate::Spec { file, like, save, .. } = &self.calibration;
        let vocabulary = self.prune.as_ref().and_then(|prune| prune.vocabulary.as_ref());
        [self.labels.as_ref(), self.texts.as_ref(), golden, file.as_ref(), like.as_ref(), save.as_ref(), vocabulary]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    /// Reads a recipe. Paths in it are taken from the recipe's own folder.
    pub fn read(path: &Path) -> Result<Recipe> {
        let mut recipe = Recipe::parse(&read_text(path)?, &file_name(path))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let golden = recipe.golden.as_mut().map(|golden| &mut golden.file);
        let vocabulary = recipe.prune.as_mut().and_then(|prune| prune.vocabulary.as_mut());
        let texts = [recipe.labels.as_mut(), recipe.texts.as_mut(), golden, vocabulary, recipe.wheels.as_mut()];
        for file in texts.into_iter().flatten().chain(recipe.calibration.paths()) {
            *file = dir.join(&*file);
        }
        Ok(recipe)
    }

    /// Parses the text of a recipe, which messages call `file`. Paths are left as they are written.
    pub fn parse(text: &str, file: &str) -> Result<Recipe> {
        let recipe: Recipe = toml::from_str(text).map_err(|e| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Error::bad_input(format!("{file} line {line}: {}", printable_sentence(e.message()))).caused_by(e)
        })?;
        let tables: toml::Table = toml::from_str(text).unwrap_or_default();
        let old = RENAMED.iter().filter(|(old, _)| tables.contains_key(*old));
        let remarks =
            old.map(|(old, new)| format!("{file}: the table [{old}] is called [{new}] now: rename it")).collect();
        Ok(Recipe { file: Some(file.to_owned()), remarks, ..recipe })
    }
}

fn gate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Gate, D::Error> {
    Gate::deserialize(deserializer)?.in_range().map_err(|e| D::Error::custom(e.message()))
}

fn difference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let max_abs = f64::deserialize(deserializer)?;
    let gate = Gate { max_abs: Some(max_abs), ..Gate::default() }.in_range();
    gate.map(|_| max_abs).map_err(|e| D::Error::custom(e.message()))
}

fn from_text<'de, T: FromStr<Err = Error>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    parsed(&String::deserialize(deserializer)?)
}

fn from_texts<'de, T: FromStr<Err = Error>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Vec::<String>::deserialize(deserializer)?.iter().map(|text| parsed(text)).collect()
}

fn parsed<T: FromStr<Err = Error>, E: serde::de::Error>(text: &str) -> Result<T, E> {
    text.parse().map_err(|e: Error| {
        let hints: Vec<_> = e.hints().iter().map(|hint| format!("; {hint}")).collect();
        E::custom(format!("{}{}", e.message(), hints.concat()))
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
    fn the_old_name_of_the_pipelines_table_is_read() {
        let window = |text: &str| read(text).map(|recipe| recipe.pipeline.window);
        assert_eq!(window("[pipeline]\nwindow = 8\n").unwrap(), Some(8));
        assert_eq!(window("[answers]\nwindow = 8\n").unwrap(), Some(8));
        let remarks = |text: &str| read(text).unwrap().remarks;
        assert_eq!(
            remarks("[answers]\nwindow = 8\n"),
            ["r.toml: the table [answers] is called [pipeline] now: rename it"]
        );
        assert_eq!(remarks("[pipeline]\nwindow = 8\n"), [""; 0]);
        assert!(window("[answers]\nwindow = 8\n[pipeline]\nwindow = 9\n").is_err());
    }

    #[test]
    fn calibration_is_a_file_or_a_table() {
        let file = |name: &str, recipe: &Recipe| recipe.calibration.file.as_ref().unwrap().ends_with(name);
        let recipe = read("calibration = \"a.jsonl\"\n").unwrap();
        assert!(file("a.jsonl", &recipe) && recipe.calibration.file.unwrap().is_absolute());
        let table = "[calibration]\nfile = \"a.csv\"\nlike = \"b.txt\"\nsamples = 236\nseed = 7\ntext_column = \"body\"\n\
                     save = \"c.kcal\"\n";
        let recipe = read(table).unwrap();
        assert!(file("a.csv", &recipe), "{:?}", recipe.calibration);
        let calibrate::Spec { like, samples, seed, text_column, save, .. } = recipe.calibration;
        assert!(like.unwrap().is_absolute() && save.unwrap().is_absolute());
        assert_eq!((samples, seed, text_column.as_deref()), (Some(236), Some(7), Some("body")));
        let message = |text: &str| read(text).unwrap_err().message().to_owned();
        assert!(message("[calibration]\nfile = \"a\"\nsample = 1\n").contains("unknown field `sample`"));
        assert!(message("calibration = 3\n").contains("expected the name of a file, or a table with `file`"));
    }

    #[test]
    fn mistakes_name_file_and_line() {
        let message = |text: &str| read(text).unwrap_err().message().to_owned();
        assert_eq!(
            message("\n[[engine]]\ntarget = \"ort-cpuu\"\n"),
            "r.toml line 3: unknown target `ort-cpuu`; known: ort-cpu, openvino, tract, web, tensorrt-rtx:smNN, tensorrt; did you mean ort-cpu?"
        );
        assert!(message("taks = \"x\"").starts_with("r.toml line 1: unknown field `taks`"));
        assert_eq!(message("max_length = -1"), "r.toml line 1: invalid value: integer `-1`, expected usize");
        assert_eq!(message("name = \"a\"\nname = \"b\""), "r.toml line 2: duplicate key");
        let gate = message("[[engine]]\ntarget = \"ort-cpu\"\ngate = { agreement = 2 }");
        assert_eq!(gate, "r.toml line 3: the bound of `agreement` must be a number from 0 to 1, found 2");
        let golden = message("golden = { file = \"x\", max_abs = -1.0 }");
        assert_eq!(golden, "r.toml line 1: the bound of `max_abs` must be a number of 0 or more, found -1");
    }

    #[test]
    fn nesting_is_limited() {
        for deep in
            ["name = ".to_owned() + &"[".repeat(1_000_000), "{a=".repeat(1_000_000), "a.".repeat(1_000_000) + "a = 1"]
        {
            assert!(read(&deep).unwrap_err().message().starts_with("r.toml line 1: "));
        }
    }
}
