//! The manifest of a bundle: its source, the build's steps, and measurements.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::files::{FileEntry, MANIFEST};
use super::runtimes::BundledRuntimes;
use crate::error::{Error, Result, printable};
use crate::eval::{Accuracy, Check, Greedy};
use crate::front::hub::checkpoint::{GenerationConfig, ModuleKind, Prompt, SentenceModules};
use crate::json;
use crate::precision::Precision;
use crate::program::{Component, Port, State};
use crate::prune;
use crate::runtime::{Gpu, ProblemType, Runtime};
use crate::settings::{LongTexts, PairPrompt, Settings};
use crate::shapes::Shapes;
use crate::target::Target;
use crate::task::id::Task;
use crate::vocabulary::CutReport;

/// The version of the manifest's form. Readers refuse all but this one and `kilnc.bundle/1`.
pub const SCHEMA: &str = "kilnc.bundle/2";

/// The form in which every engine was one file. It is still read.
const FIRST: &str = "kilnc.bundle/1";

/// The manifest, `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// The version of kilnc that built it.
    pub kilnc: String,
    /// The bundle's name.
    pub name: String,
    /// The model's family.
    pub model_type: String,
    /// The task.
    pub task: Task,
    /// The labels of a classifier, by class.
    pub labels: Vec<String>,
    /// The problem type of a classifier; single-label by default.
    #[serde(default, alias = "reading", skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<ProblemType>,
    /// Longest text, in tokens.
    pub max_length: usize,
    /// Most tokens that its engines take, where there is such a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// What becomes of texts that are longer than the model was trained on, where its angles follow the length of a
    /// text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_texts: Option<LongTexts>,
    /// The tokens that begin and end a text, and how long one can become, where the model generates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationConfig>,
    /// The defaults of texts' windows and of predictions, as far as the recipe sets them.
    #[serde(default, alias = "answers", skip_serializing_if = "Settings::is_empty")]
    pub pipeline: Settings,
    /// The prompt before every text, or before the first of a pair, where sentence-transformers sets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptEntry>,
    /// The prompts that a text may have before it instead, by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<PromptEntry>,
    /// The prompt around the texts of a pair, where the model is a language model that scores pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair_prompt: Option<PairPrompt>,
    /// Whether the model reads contexts before their questions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub context_first: bool,
    /// The mask token, where the model predicts masked tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The pooling of a text's vector, where sentence-transformers sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<PoolingEntry>,
    /// The files of the checkpoint.
    pub sources: Vec<FileEntry>,
    /// The adapters that were merged into it, in order.
    pub adapters: Vec<AdapterEntry>,
    /// How the adapters became one, where they were not merged one after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combined: Option<String>,
    /// The licences of its sources: the checkpoint's, then those of the adapters in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub licences: Vec<LicenceEntry>,
    /// What its 8-bit engines were calibrated on, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationEntry>,
    /// The pruning of the trained model, where it was pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<prune::Report>,
    /// The cut of its vocabulary, where it was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<CutReport>,
    /// The engines.
    pub engines: Vec<EngineEntry>,
    /// Their timings on the building machine, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bench: Option<BenchEntry>,
    /// Engines that were requested and could not be made here.
    pub skipped: Vec<Skipped>,
    /// The bundled runtimes, where there are any.
    #[serde(default, skip_serializing_if = "BundledRuntimes::is_empty")]
    pub runtimes: BundledRuntimes,
    /// Files that another build of the same would have with other bytes: those that compiling libraries make. With
    /// them vary their digests here and in the bill of materials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub varying: Vec<String>,
    /// Every file of the bundle but this one.
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// Parses the text of a manifest; one of the first form becomes one of today's. Fails where it has another form, or an
    /// engine has no component.
    pub fn parse(text: &str) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Form {
            schema: String,
        }
        let Form { schema } = json::parse(text, MANIFEST)?;
        let manifest: Manifest = match schema.as_str() {
            SCHEMA => json::parse(text, MANIFEST)?,
            FIRST => json::parse(&of_first_form(json::parse(text, MANIFEST)?).to_string(), MANIFEST)?,
            _ => {
                return Err(Error::unsupported(format!(
                    "the bundle has the form `{}`, this kilnc reads `{SCHEMA}` and `{FIRST}`",
                    printable(&schema)
                )));
            }
        };
        match manifest.engines.iter().find(|engine| engine.components.is_empty()) {
            None => Ok(manifest),
            Some(engine) => {
                let what = format!("the engine {} has no components", printable(&engine.name));
                Err(Error::bad_input(what).at(MANIFEST))
            }
        }
    }
}

/// A manifest of the first form in today's: the file and the ports of an engine are those of its one component.
fn of_first_form(mut manifest: Value) -> Value {
    let engines = manifest.get_mut("engines").and_then(Value::as_array_mut);
    for engine in engines.into_iter().flatten().filter_map(Value::as_object_mut) {
        let fields = ["file", "inputs", "outputs"].map(|field| (field, engine.remove(field)));
        let mut component = Map::from_iter([("name".to_owned(), Component::MODEL.into())]);
        component.extend(fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))));
        engine.insert("components".to_owned(), Value::Array(vec![Value::Object(component)]));
    }
    if let Some(manifest) = manifest.as_object_mut() {
        manifest.insert("schema".to_owned(), SCHEMA.into());
        // The first form did not say it, and one family alone had it.
        let context_first = manifest.get("model_type").is_some_and(|family| family == "xlnet");
        manifest.insert("context_first".to_owned(), context_first.into());
    }
    manifest
}

/// A text that is put before every other one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptEntry {
    /// Its name among the model's prompts.
    pub name: String,
    /// The text.
    pub text: String,
}

impl PromptEntry {
    /// The model's entry.
    pub fn of(Prompt { name, text }: &Prompt) -> PromptEntry {
        PromptEntry { name: name.clone(), text: text.clone() }
    }
}

/// How one vector is made of the hidden states of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolingEntry {
    /// The modes whose vectors are concatenated, by sentence-transformers' names: `cls`, `mean`, `max`, ….
    pub modes: Vec<String>,
    /// Whether the vector has length 1.
    pub normalized: bool,
    /// The dimension that the vector is truncated to, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<usize>,
}

impl PoolingEntry {
    /// The modules after an encoder, where one of them pools.
    pub fn of(sentence: &SentenceModules) -> Option<PoolingEntry> {
        let modules = &sentence.modules;
        let truncated = sentence.model.truncate_dim().ok()?;
        let modes = modules.iter().rev().find_map(|module| match &module.kind {
            ModuleKind::Pooling { modes, .. } => Some(modes),
            _ => None,
        })?;
        let last = modules.iter().rev().find(|module| module.kind != ModuleKind::Dropout);
        Some(PoolingEntry {
            modes: modes.iter().map(|mode| mode.name().to_owned()).collect(),
            normalized: last.is_some_and(|module| module.kind == ModuleKind::Normalize),
            truncated,
        })
    }
}

/// An adapter that was merged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdapterEntry {
    /// The name of its folder.
    pub name: String,
    /// PEFT's name of its kind, such as `LORA`.
    #[serde(default)]
    pub kind: String,
    /// The factor of its own scale.
    pub scale: f32,
    /// How many modules it changed.
    pub changed: usize,
    /// How many tensors of a bottleneck adapter went into the graph.
    #[serde(default)]
    pub inserted: usize,
    /// How many rows of embeddings it replaced.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tokens: usize,
    /// Modules that its configuration names and its file does not change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untouched: Vec<String>,
    /// The tensors that it saved whole (`modules_to_save`).
    pub saved: Vec<String>,
    /// Its files.
    pub files: Vec<FileEntry>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// The licence of something that went into a bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LicenceEntry {
    /// The name of its folder.
    pub of: String,
    /// The licence's name, as written in the folder; none where it is not stated.
    pub licence: Option<String>,
    /// The file that states it, or that holds its text.
    pub from: Option<String>,
}

/// What engines were calibrated on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CalibrationEntry {
    /// The name of a file, or the built-in probes.
    pub from: String,
    /// The file, and that of the domain for which texts were chosen.
    pub files: Vec<FileEntry>,
    /// The seed with which texts were sampled, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How many texts there were.
    pub texts: usize,
    /// How many tokens they had.
    pub tokens: usize,
    /// How many of the texts were cut to the model's length.
    pub cut: usize,
}

/// An engine of the bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineEntry {
    /// Its name, e.g. `ort-cpu-int8`.
    pub name: String,
    /// Where it is to run.
    pub target: String,
    /// The runtime that opens it.
    pub runtime: Runtime,
    /// Its number format.
    pub precision: Precision,
    /// Whether the weights of its 8-bit layers use half of the integers, so that no sum saturates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reduced_range: bool,
    /// The parts that are run, at least one; most models are one, `model`.
    pub components: Vec<ComponentEntry>,
    /// The passes that made it, in order.
    pub passes: Vec<PassEntry>,
    /// The library that compiled it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled_by: Option<String>,
    /// The GPU that it was compiled on and is for, where the library compiles for the present GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled_on: Option<Gpu>,
    /// The profiles that it was compiled for, where it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<Shapes>,
    /// A summary of the compiled layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<String>,
    /// The zeros of its weights, as its ONNX file was read back, where they were to make a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zeros: Option<ZerosEntry>,
    /// Its comparisons.
    pub gates: Vec<GateEntry>,
}

/// A part of an engine: a graph in a file of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ComponentEntry {
    /// Its name.
    pub name: String,
    /// The file that is opened; a path in the bundle. Weights that it shares with others are beside it.
    pub file: String,
    /// Its inputs, e.g. `input_ids: i64[batch_size, sequence_length]`.
    pub inputs: Vec<String>,
    /// Its outputs.
    pub outputs: Vec<String>,
    /// Outputs that are inputs of its next run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<StateEntry>,
}

impl ComponentEntry {
    /// The entry of a component in that file; a path in the bundle.
    pub fn of(component: &Component, file: String) -> ComponentEntry {
        let port = |port: Port| format!("{}: {}", port.name, port.ty);
        let state = |State { input, output, grows }| StateEntry { input, output, grows };
        ComponentEntry {
            name: component.name.clone(),
            file,
            inputs: component.inputs().map(port).collect(),
            outputs: component.outputs().map(port).collect(),
            state: component.state().into_iter().map(state).collect(),
        }
    }
}

/// An output that is an input of the next run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEntry {
    /// The input. Before the first run it is empty along `grows`, or zeros.
    pub input: String,
    /// The output.
    pub output: String,
    /// The axis that grows with each run; none where each run replaces the state by another of its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grows: Option<usize>,
}

/// Texts in one batch of an engine whose predictions do not depend on the other texts.
const BATCH: usize = 16;

impl EngineEntry {
    /// The files that are opened; paths in the bundle.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.components.iter().map(|component| component.file.as_str())
    }

    /// Its one component. Fails where it has several, which are run by a loop of their own.
    pub fn model(&self) -> Result<&ComponentEntry> {
        match self.components.as_slice() {
            [only] => Ok(only),
            _ => Err(Error::unsupported(format!(
                "the engine {} has {} components",
                printable(&self.name),
                self.components.len()
            ))),
        }
    }

    /// Its default batch size: one, where an engine finds the ranges of its 8-bit
    /// activations as it runs, because they are those of the whole batch; else 16.
    pub fn batch(&self) -> usize {
        self.target.parse::<Target>().map_or(BATCH, |target| batch(self.precision, &target))
    }

    /// Whether its 8-bit sums were exact where it was checked; true, where that was not recorded.
    pub fn checked_exactly(&self) -> bool {
        self.gates.iter().filter(|gate| gate.rows > 0).filter_map(|gate| gate.exact_8_bits).next_back().unwrap_or(true)
    }

    /// The version of the runtime that it was checked with; none where that was not recorded, or a plan's file was checked.
    pub fn checked_with(&self) -> Option<&str> {
        let of_its_own = |gate: &&GateEntry| gate.rows > 0 && gate.ran_by == self.runtime.to_string();
        self.gates.iter().rev().find(of_its_own).and_then(|gate| gate.version.as_deref())
    }

    /// Whether its outputs were compared with anything on the building machine.
    pub fn is_checked(&self) -> bool {
        // Before batches were compared, a reference was compared with nothing.
        self.gates.is_empty() || self.gates.iter().any(|gate| gate.rows > 0)
    }
}

/// How many constant matrices of an engine have a pattern of zeros.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ZerosEntry {
    /// The pattern, e.g. `2:4` along the summed dimension.
    pub pattern: String,
    /// The matrices of the file that products multiply by.
    pub matrices: usize,
    /// How many of them have it.
    pub holding: usize,
}

/// A pass that ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PassEntry {
    /// Its name.
    pub name: String,
    /// How many matches it changed.
    pub changed: usize,
    /// Near matches it left, with the reason.
    pub left: Vec<String>,
}

/// How many texts an engine of that precision is given at once: see [`EngineEntry::batch`].
pub fn batch(precision: Precision, target: &Target) -> usize {
    let of_the_batch =
        matches!(precision, Precision::Int8 | Precision::Int8Fast) && target.capabilities().ranges_at_run();
    if of_the_batch { 1 } else { BATCH }
}

/// One comparison of an engine with something it must agree with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GateEntry {
    /// What it was compared with: `golden`, or the name of the reference.
    pub against: String,
    /// The inputs: `golden.safetensors`, a text file, or the built-in probes.
    pub on: String,
    /// How many rows were compared; none where it could not run here.
    pub rows: usize,
    /// Its batch size, the reference having one; none where that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// The runtime that ran it, or why none did.
    pub ran_by: String,
    /// The version of the runtime that ran it; none for kilnc's own evaluator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The instructions of the processor there that decide how products are computed, as `avx512_vnni`; none for kilnc's
    /// own evaluator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Whether its 8-bit sums were exact there, or saturated in 16 bits; none for an engine without such sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_8_bits: Option<bool>,
    /// The measures and their bounds.
    pub checks: Vec<Check>,
    /// The accuracy, where all texts have labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// The tokens that it generated after beginnings of texts beside the reference's, where it generates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub greedy: Option<Greedy>,
}

/// Timings of engines, side by side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BenchEntry {
    /// The processor's name by its maker.
    pub processor: String,
    /// Its instructions that decide how products are computed, as `avx512_vnni`: processors without them have the name,
    /// too.
    #[serde(default)]
    pub features: Vec<String>,
    /// Threads of each engine.
    pub threads: usize,
    /// Rounds in which engines took turns.
    pub rounds: usize,
    /// Those that could run there.
    pub engines: Vec<BenchedEngine>,
}

/// Timings of one engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BenchedEngine {
    /// Its name.
    pub engine: String,
    /// The version of its runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// By point.
    pub points: Vec<BenchedPoint>,
}

/// The latency of texts of one length.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct BenchedPoint {
    /// How many texts at once.
    pub batch: usize,
    /// Their length in tokens.
    pub length: usize,
    /// Mean, in milliseconds.
    pub mean_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
}

/// An engine that was requested and could not be made here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// Its name.
    pub engine: String,
    /// Why, and a hint.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(schema: &str, engine: &str) -> Result<Manifest> {
        Manifest::parse(&format!(
            r#"{{"schema": "{schema}", "kilnc": "0", "name": "b", "model_type": "bert", "task": "text-classification",
                "reading": "many-labels", "labels": ["a"], "max_length": 8, "sources": [], "adapters": [], "skipped": [],
                "files": [], "engines": [{{"name": "e", "target": "tract", "runtime": "tract", "precision": "fp32",
                "passes": [], "gates": [], {engine}}}]}}"#
        ))
    }

    #[test]
    fn a_manifest_of_the_first_form_is_read_as_one_of_todays() {
        let old =
            of(FIRST, r#""file": "engines/e.onnx", "inputs": ["ids: i64[b]"], "outputs": ["y: f32[b]"]"#).unwrap();
        assert_eq!(old.schema, SCHEMA);
        assert_eq!(old.problem_type, Some(ProblemType::MultiLabel));
        let model = old.engines[0].model().unwrap();
        assert_eq!((model.name.as_str(), model.file.as_str()), ("model", "engines/e.onnx"));
        assert_eq!(
            (&model.inputs[..], &model.outputs[..]),
            (&["ids: i64[b]".to_owned()][..], &["y: f32[b]".to_owned()][..])
        );
        let again = Manifest::parse(&serde_json::to_string(&old).unwrap()).unwrap();
        assert_eq!(again.engines[0].files().collect::<Vec<_>>(), ["engines/e.onnx"]);
    }

    #[test]
    fn an_engine_has_a_component() {
        let error = of(SCHEMA, r#""components": []"#).unwrap_err();
        assert_eq!(error.message(), "the engine e has no components");
        assert!(of(SCHEMA, r#""file": "x", "inputs": [], "outputs": []"#).is_err());
        assert!(of(FIRST, r#""inputs": [], "outputs": []"#).unwrap_err().to_string().contains("file"));
    }
}
