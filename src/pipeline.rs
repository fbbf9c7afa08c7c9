//! The whole compile: checkpoint → graph → passes → engines → gates → bundle.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::adapter::{self, AdapterSource, Merged};
use crate::back::{self, onnx};
use crate::bundle::{self, AdapterEntry, EngineEntry, GateEntry, Manifest, PassEntry, Skipped};
use crate::checkpoint::{Checkpoint, json};
use crate::error::{Error, Kind, Result};
use crate::eval::{Example, Gate, Golden, PROBES, Parity, read_examples};
use crate::ir::{DType, Graph};
use crate::output::Stage;
use crate::passes::{FuseQkv, Half, Manager, QuantizeDynamic};
use crate::precision::Precision;
use crate::recipe::{EngineSpec, ProfileSpec, Recipe};
use crate::runtime::{self, Engine, Options, Runtime, TextEncoder};
use crate::target::Target;
use crate::task::Task;
use crate::verify::{Verified, verify};
use crate::{arch, child};

/// Hears what a build is doing.
pub trait Observer: Sync {
    /// A stage begins; `total` steps are ahead, if they can be counted.
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    /// So many steps of the stage are done.
    fn advance(&self, _steps: u64) {}
    /// A stage is over, with a line about what came of it.
    fn done(&self, _line: &str) {}
    /// Something the user must not miss.
    fn warn(&self, _line: &str) {}
}

/// What a model is made from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// What is merged into it, in order.
    pub adapters: Vec<AdapterSource>,
    /// What it is for, where that is not to be found out.
    pub task: Option<Task>,
}

/// A model that has been read, merged, drawn and verified.
pub struct Model {
    /// Where it came from.
    pub checkpoint: Checkpoint,
    /// What was merged.
    pub merged: Vec<(AdapterSource, Merged)>,
    /// What it is for.
    pub task: Task,
    /// Its graph, in composite operations.
    pub graph: Verified<Graph>,
    /// Tensors that no part of the graph reads.
    pub unused: Vec<String>,
}

/// Reads a checkpoint, merges the adapters and draws the graph. Computes nothing of the weights.
pub fn load(source: &Source) -> Result<Model> {
    let checkpoint = Checkpoint::open(&source.checkpoint)?;
    let mut state = arch::canonical_state(&checkpoint)?;
    let mut merged = Vec::new();
    if source.adapters.len() > 1 {
        return Err(Error::unsupported("more than one adapter cannot be merged yet").at("--adapter"));
    }
    for adapter in &source.adapters {
        merged.push((adapter.clone(), adapter::merge(&mut state, adapter)?));
    }
    let drawn = arch::draw(&checkpoint, &state, source.task)?;
    Ok(Model { graph: verify(drawn.graph)?, merged, task: drawn.task, unused: drawn.unused, checkpoint })
}

/// The graph of an engine: the passes of its precision, then the lowering of its target.
pub fn compile(model: &Model, target: &Target, precision: Precision, manager: &mut Manager) -> Result<Verified<Graph>> {
    let mut graph = manager.run(&model.graph, &FuseQkv)?;
    match precision {
        Precision::Fp32 if !target.capabilities().fp32_gemm => {
            return Err(Error::unsupported(format!("{target} multiplies no 32-bit matrices")).hint("use fp16 for it"));
        }
        Precision::Fp32 => {}
        Precision::Fp16 => graph = manager.run(&graph, &Half(DType::F16))?,
        Precision::Int8 => graph = manager.run(&graph, &QuantizeDynamic)?,
    }
    back::lower(&graph, target)
}

/// What a bundle is built from.
pub struct BuildRequest {
    /// The model.
    pub source: Source,
    /// What to build; engines, labels and gates.
    pub recipe: Recipe,
    /// Where the bundle goes.
    pub output: PathBuf,
    /// Whether an engine that cannot be made or checked here is an error.
    pub strict: bool,
}

/// Builds a bundle. Nothing is written to the output unless every gate is passed.
pub fn build(request: &BuildRequest, observer: &dyn Observer) -> Result<Manifest> {
    let stage = Stage::new(&request.output, bundle::is_bundle)?;
    observer.begin("reading", None);
    let model = load(&request.source)?;
    observer.done(&describe(&model));
    if let Some(unused) = unused_line(&model) {
        observer.warn(&unused);
    }
    let mut builder = BundleBuilder::new(request, &model, &stage, observer)?;
    let specs = match request.recipe.engines.as_slice() {
        [] => default_engines(),
        given => given.to_vec(),
    };
    for spec in &specs {
        builder.engine(spec)?;
    }
    builder.gates(&specs)?;
    let manifest = builder.finish()?;
    stage.commit_dir()?;
    Ok(manifest)
}

fn default_engines() -> Vec<EngineSpec> {
    [Target::OrtCpu, Target::Tract]
        .map(|target| EngineSpec { target, precision: Precision::Fp32, gate: Gate::default(), profile: None })
        .to_vec()
}

fn describe(model: &Model) -> String {
    let (parameters, dtypes) = model.checkpoint.parameters();
    let dtypes: Vec<_> = dtypes.iter().filter(|d| d.is_float()).map(|d| d.to_string()).collect();
    let adapters: Vec<_> = model
        .merged
        .iter()
        .map(|(source, merged)| {
            format!(
                ", {} merged into {} weights, {} brought whole",
                json::file_name(&source.dir),
                merged.changed,
                merged.saved.len()
            )
        })
        .collect();
    format!(
        "{}, {:.1} M parameters ({}){} → {}, {} nodes",
        model.checkpoint.common.model_type.as_deref().unwrap_or_default(),
        parameters as f64 / 1e6,
        dtypes.join(", "),
        adapters.concat(),
        model.task,
        model.graph.nodes().count()
    )
}

/// Tensors that are left over, but for those that are known to mean nothing.
fn unused_line(model: &Model) -> Option<String> {
    let telling: Vec<&str> =
        model.unused.iter().map(String::as_str).filter(|name| !name.ends_with("position_ids")).collect();
    let (first, rest) = telling.split_first()?;
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    Some(format!("the {} graph does not use `{}`{more}", model.task, crate::error::printable(first)))
}

/// A text file or the built-in texts, tokenized, with labels where there are some.
struct Texts {
    name: String,
    examples: Vec<Example>,
}

/// Makes the parts of a bundle in its stage.
struct BundleBuilder<'a> {
    request: &'a BuildRequest,
    model: &'a Model,
    stage: &'a Stage,
    observer: &'a dyn Observer,
    encoder: TextEncoder,
    labels: Vec<String>,
    texts: Texts,
    golden: Option<Golden>,
    engines: Vec<EngineEntry>,
    skipped: Vec<Skipped>,
}

impl<'a> BundleBuilder<'a> {
    fn new(request: &'a BuildRequest, model: &'a Model, stage: &'a Stage, observer: &'a dyn Observer) -> Result<Self> {
        let labels = labels(&request.recipe, model)?;
        let max_length = max_length(&request.recipe, model)?;
        let encoder = TextEncoder::open(&model.checkpoint.dir.join(bundle::TOKENIZER), max_length)?;
        let texts = match &request.recipe.texts {
            Some(path) => Texts { name: json::file_name(path), examples: read_examples(path, &labels)? },
            None => Texts {
                name: "built-in probes".to_owned(),
                examples: PROBES.iter().map(|text| Example { text: (*text).to_owned(), label: None }).collect(),
            },
        };
        let golden = request.recipe.golden.as_ref().map(|spec| Golden::read(&spec.file)).transpose()?;
        std::fs::create_dir_all(stage.path("engines")).map_err(|e| Error::io("writing to", stage.dir(), &e))?;
        let (engines, skipped) = (Vec::new(), Vec::new());
        Ok(BundleBuilder { request, model, stage, observer, encoder, labels, texts, golden, engines, skipped })
    }

    /// Makes one engine; one that this machine cannot make is skipped, unless the build is strict.
    fn engine(&mut self, spec: &EngineSpec) -> Result<()> {
        let name = spec.name();
        if self.engines.iter().any(|engine| engine.name == name) {
            return Err(Error::bad_input(format!("the engine {name} is asked for twice")));
        }
        let mut manager = Manager::default();
        let graph = compile(self.model, &spec.target, spec.precision, &mut manager)
            .map_err(|e| e.at(format!("engine {name}")))?;
        self.observer.begin(&name, Some(graph.weights().map(|(_, _, w)| w.byte_len() as u64).sum()));
        let file = format!("engines/{name}.onnx");
        let written = onnx::write(&graph, &self.stage.path(&file), &|bytes| self.observer.advance(bytes))?;
        let ports = |ids: &[crate::ir::ValueId]| {
            ids.iter().map(|id| graph.value(*id)).map(|value| format!("{}: {}", value.name, value.ty)).collect()
        };
        let mut entry = EngineEntry {
            name: name.clone(),
            target: spec.target.to_string(),
            runtime: runtime_of(&spec.target),
            precision: spec.precision,
            file,
            inputs: ports(graph.inputs()),
            outputs: ports(graph.outputs()),
            passes: manager.ran.iter().map(pass_entry).collect(),
            compiled_by: None,
            layers: None,
            gates: Vec::new(),
        };
        if let Target::TensorRtRtx(_) = &spec.target {
            match self.tensorrt(spec, &mut entry) {
                Ok(()) => {}
                Err(e) if e.kind() == Kind::RuntimeMissing && !self.request.strict => {
                    let reason: Vec<&str> =
                        std::iter::once(e.message()).chain(e.hints().iter().map(String::as_str)).collect();
                    let reason = reason.join("; ");
                    self.observer.warn(&format!("{name} is SKIPPED: {reason}"));
                    self.skipped.push(Skipped { engine: name, reason });
                    return std::fs::remove_file(self.stage.path(&entry.file))
                        .map_err(|e| Error::io("removing", &self.stage.path(&entry.file), &e));
                }
                Err(e) => return Err(e.at(format!("engine {name}"))),
            }
        }
        let plan = entry.layers.as_ref().map(|layers| format!(", {layers}")).unwrap_or_default();
        self.observer.done(&format!("{name}: {:.1} MB of ONNX{plan}", written.bytes as f64 / 1e6));
        self.engines.push(entry);
        Ok(())
    }

    /// Has TensorRT compile the engine's ONNX file, in a child process.
    fn tensorrt(&self, spec: &EngineSpec, entry: &mut EngineEntry) -> Result<()> {
        let profile = spec.profile.unwrap_or_else(|| ProfileSpec::up_to(self.encoder.max_length));
        let plan = format!("engines/{}.plan", entry.name);
        let job = TensorRtJob {
            onnx: self.stage.path(&entry.file),
            plan: self.stage.path(&plan),
            layers: self.stage.path(&format!("engines/{}.layers.json", entry.name)),
            target: spec.target.to_string(),
            inputs: self.model.graph.inputs().iter().map(|id| self.model.graph.value(*id).name.clone()).collect(),
            profile: [profile.min, profile.opt, profile.max],
        };
        let compiled = compile_tensorrt_in_child(&job)?;
        compiled.warnings.iter().for_each(|warning| self.observer.warn(&format!("{}: {warning}", entry.name)));
        entry.file = plan;
        entry.compiled_by = Some(compiled.library);
        entry.layers = Some(compiled.summary);
        Ok(())
    }

    /// Holds every engine against the trained model's outputs and against FP32. Fails where a bound is missed.
    fn gates(&mut self, specs: &[EngineSpec]) -> Result<()> {
        let reference = self.reference()?;
        let mut missed = Vec::new();
        let steps = (self.engines.len() + 1) * self.texts.examples.len();
        self.observer.begin("checking answers", Some(steps as u64));
        let expected = self.answers(&reference.file, reference.runtime)?;
        let mut engines = std::mem::take(&mut self.engines);
        for entry in &mut engines {
            let spec = specs.iter().find(|spec| spec.name() == entry.name);
            let gate = default_gate(entry.precision).overridden_by(spec.map(|spec| spec.gate).unwrap_or_default());
            entry.gates = self.gates_of(entry, &gate, &reference, &expected)?;
            for gate in &entry.gates {
                let failed = gate.checks.iter().filter(|check| !check.passed);
                missed.extend(
                    failed.map(|check| format!("{}: {check} against {} on {}", entry.name, gate.against, gate.on)),
                );
            }
        }
        self.engines = engines;
        reference.remove()?;
        self.observer.done(&format!(
            "{} texts of {}, each engine against {}",
            self.texts.examples.len(),
            self.texts.name,
            reference.name
        ));
        for gate in self.engines.iter().flat_map(|engine| engine.gates.iter().map(move |gate| (engine, gate))) {
            let (engine, gate) = gate;
            let checks: Vec<_> = gate.checks.iter().map(|check| check.to_string()).collect();
            let line = format!("{} against {}: {} ({})", engine.name, gate.against, checks.join(", "), gate.ran_by);
            if gate.rows == 0 {
                self.observer.warn(&format!("{} was NOT CHECKED: {}", engine.name, gate.ran_by));
            } else {
                self.observer.done(&line);
            }
        }
        match missed.split_first() {
            None => Ok(()),
            Some((first, rest)) => {
                let error = Error::gate_failed(format!("a gate was missed: {first}"));
                Err(rest.iter().fold(error, |error, other| error.at(format!("also {other}"))).hint(
                    "nothing was written; loosen the bound in the recipe or with --gate, or choose a finer precision",
                ))
            }
        }
    }

    /// The FP32 engine that the others are held against: one of the bundle's, or one made for the purpose.
    fn reference(&self) -> Result<Reference> {
        let target = if runtime::available(Runtime::Ort).is_ok() { Target::OrtCpu } else { Target::Tract };
        let runtime = runtime_of(&target);
        let ours = |engine: &&EngineEntry| engine.runtime == runtime && engine.precision == Precision::Fp32;
        if let Some(engine) = self.engines.iter().find(ours) {
            return Ok(Reference {
                name: engine.name.clone(),
                file: self.stage.path(&engine.file),
                runtime,
                temporary: false,
            });
        }
        let graph = compile(self.model, &target, Precision::Fp32, &mut Manager::default())?;
        let file = self.stage.path("reference.onnx");
        onnx::write(&graph, &file, &|_| {})?;
        Ok(Reference { name: format!("{target} fp32"), file, runtime, temporary: true })
    }

    fn gates_of(
        &self,
        entry: &EngineEntry,
        gate: &Gate,
        reference: &Reference,
        expected: &[Vec<f32>],
    ) -> Result<Vec<GateEntry>> {
        // A plan needs its GPU; its ONNX file, in the same operations and precision, runs on the CPU.
        let (file, runtime) = match entry.runtime {
            Runtime::TensorRtRtx => (format!("engines/{}.onnx", entry.name), Runtime::Ort),
            runtime => (entry.file.clone(), runtime),
        };
        let on_cpu = if entry.runtime == Runtime::TensorRtRtx { "the plan's ONNX on " } else { "" };
        let path = self.stage.path(&file);
        let result = match runtime::available(runtime) {
            Ok(_) => self.compare(&path, runtime, entry, gate, reference, expected, on_cpu),
            Err(e) if self.request.strict => Err(e),
            Err(e) => {
                self.observer.advance(self.texts.examples.len() as u64);
                Ok(vec![GateEntry {
                    against: reference.name.clone(),
                    on: self.texts.name.clone(),
                    rows: 0,
                    ran_by: e.message().to_owned(),
                    checks: Vec::new(),
                }])
            }
        };
        if entry.runtime == Runtime::TensorRtRtx {
            std::fs::remove_file(&path).map_err(|e| Error::io("removing", &path, &e))?;
        }
        result.map_err(|e| e.at(format!("engine {}", entry.name)))
    }

    #[allow(clippy::too_many_arguments)]
    fn compare(
        &self,
        path: &Path,
        runtime: Runtime,
        entry: &EngineEntry,
        gate: &Gate,
        reference: &Reference,
        expected: &[Vec<f32>],
        on_cpu: &str,
    ) -> Result<Vec<GateEntry>> {
        let ran_by = format!("{on_cpu}{runtime}");
        let mut gates = Vec::new();
        if let (Some(golden), Some(spec), Precision::Fp32) =
            (&self.golden, &self.request.recipe.golden, entry.precision)
        {
            let parity = golden.compare(&mut *runtime::open(runtime, path, Options::default())?)?;
            let gate = Gate { max_abs: Some(spec.max_abs), ..Gate::default() };
            let on = json::file_name(&spec.file);
            gates.push(GateEntry {
                against: "golden".to_owned(),
                on,
                rows: parity.rows,
                ran_by: ran_by.clone(),
                checks: gate.check(&parity, None),
            });
        }
        if path == reference.file {
            self.observer.advance(self.texts.examples.len() as u64);
            return Ok(gates);
        }
        let found = self.answers(path, runtime)?;
        let parity = Parity::of(expected.iter().zip(&found).map(|(a, b)| (a.as_slice(), b.as_slice())))?;
        let drop = self.accuracy(expected).zip(self.accuracy(&found)).map(|(before, after)| before - after);
        let checks = gate.check(&parity, drop);
        gates.push(GateEntry {
            against: reference.name.clone(),
            on: self.texts.name.clone(),
            rows: parity.rows,
            ran_by,
            checks,
        });
        Ok(gates)
    }

    /// The first output's rows for every text, one text at a time, so that no answer depends on its neighbours.
    fn answers(&self, path: &Path, runtime: Runtime) -> Result<Vec<Vec<f32>>> {
        let mut engine: Box<dyn Engine> = runtime::open(runtime, path, Options::default())?;
        let mut answers = Vec::with_capacity(self.texts.examples.len());
        for example in &self.texts.examples {
            let outputs = engine.run(&self.encoder.encode(&[&example.text])?)?;
            let rows = outputs.first().and_then(|(_, tensor)| tensor.rows());
            answers.extend(rows.ok_or_else(|| Error::bad_input("the engine gives no floats"))?.map(<[f32]>::to_vec));
            self.observer.advance(1);
        }
        Ok(answers)
    }

    /// The share of labelled texts that are answered right, if this is a classifier and they all have labels.
    fn accuracy(&self, answers: &[Vec<f32>]) -> Option<f64> {
        if self.model.task != Task::TextClassification || answers.len() != self.texts.examples.len() {
            return None;
        }
        let mut right = 0;
        for (answer, example) in answers.iter().zip(&self.texts.examples) {
            let label = example.label.as_ref()?;
            let best = answer.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
            right += usize::from(best == self.labels.iter().position(|known| known == label));
        }
        Some(right as f64 / answers.len() as f64)
    }

    /// Copies what runs the engines, and writes the manifest last.
    fn finish(self) -> Result<Manifest> {
        let tokenizer = self.model.checkpoint.dir.join(bundle::TOKENIZER);
        let copy = self.stage.path(bundle::TOKENIZER);
        std::fs::copy(&tokenizer, &copy).map_err(|e| Error::io("copying", &tokenizer, &e))?;
        let sources = self.model.checkpoint.files.iter().chain([&tokenizer]);
        let name = match &self.request.recipe.name {
            Some(name) => name.clone(),
            None => self.request.output.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let manifest = Manifest {
            schema: bundle::SCHEMA.to_owned(),
            kilnc: env!("CARGO_PKG_VERSION").to_owned(),
            name,
            model_type: self.model.checkpoint.common.model_type.clone().unwrap_or_default(),
            task: self.model.task,
            labels: self.labels,
            max_length: self.encoder.max_length,
            sources: sources.map(|path| bundle::digest_source(path)).collect::<Result<_>>()?,
            adapters: self.model.merged.iter().map(adapter_entry).collect::<Result<_>>()?,
            engines: self.engines,
            skipped: self.skipped,
            files: bundle::digest_tree(self.stage.dir())?,
        };
        let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::bug(format!("the manifest: {e}")))?;
        let path = self.stage.path(bundle::MANIFEST);
        std::fs::write(&path, text + "\n").map_err(|e| Error::io("writing", &path, &e))?;
        Ok(manifest)
    }
}

struct Reference {
    name: String,
    file: PathBuf,
    runtime: Runtime,
    temporary: bool,
}

impl Reference {
    fn remove(&self) -> Result<()> {
        match self.temporary {
            true => std::fs::remove_file(&self.file).map_err(|e| Error::io("removing", &self.file, &e)),
            false => Ok(()),
        }
    }
}

/// What any engine has to keep: in FP32 the numbers, in other precisions only that they are numbers.
fn default_gate(precision: Precision) -> Gate {
    match precision {
        Precision::Fp32 => Gate { max_abs: Some(1e-3), ..Gate::default() },
        Precision::Fp16 | Precision::Int8 => Gate::default(),
    }
}

fn runtime_of(target: &Target) -> Runtime {
    match target {
        Target::OrtCpu => Runtime::Ort,
        Target::Tract => Runtime::Tract,
        Target::TensorRtRtx(_) => Runtime::TensorRtRtx,
    }
}

fn pass_entry(ran: &crate::passes::Ran) -> PassEntry {
    PassEntry { name: ran.name.to_owned(), changed: ran.report.changed, left: ran.report.left.clone() }
}

fn adapter_entry((source, merged): &(AdapterSource, Merged)) -> Result<AdapterEntry> {
    Ok(AdapterEntry {
        name: json::file_name(&source.dir),
        scale: source.scale,
        changed: merged.changed,
        saved: merged.saved.clone(),
        files: merged.files.iter().map(|path| bundle::digest_source(path)).collect::<Result<_>>()?,
    })
}

/// The labels of a classifier: the recipe's, or the checkpoint's where their number is right.
fn labels(recipe: &Recipe, model: &Model) -> Result<Vec<String>> {
    if model.task != Task::TextClassification {
        return Ok(Vec::new());
    }
    let logits = model.graph.outputs().first().and_then(|id| model.graph.value(*id).ty.shape.last()?.fixed());
    let logits = logits.ok_or_else(|| Error::bug("a classifier's number of labels is not known"))?;
    let labels = match &recipe.labels {
        Some(path) => {
            let labels: Vec<String> = json::read(path)?;
            if labels.len() != logits {
                return Err(Error::bad_input(format!(
                    "{} labels, but the classifier has {logits} answers",
                    labels.len()
                ))
                .at(path.display().to_string()));
            }
            labels
        }
        None => match model.checkpoint.common.labels() {
            Some(labels) if labels.len() == logits => labels,
            _ => (0..logits).map(|i| format!("LABEL_{i}")).collect(),
        },
    };
    let mut sorted = labels.clone();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair.first() == pair.last()) {
        Some(twice) => {
            Err(Error::bad_input(format!("the label `{}` stands twice", crate::error::printable(&twice.concat()))))
        }
        None => Ok(labels),
    }
}

fn max_length(recipe: &Recipe, model: &Model) -> Result<usize> {
    let limit = model.checkpoint.common.max_position_embeddings.unwrap_or(512);
    match recipe.max_length {
        Some(n) if n > limit || n < 2 => {
            Err(Error::bad_input(format!("max_length {n} is outside 2…{limit}, the positions that the model has")))
        }
        Some(n) => Ok(n),
        None => Ok(limit),
    }
}

/// What a child is asked to compile.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct TensorRtJob {
    onnx: PathBuf,
    plan: PathBuf,
    layers: PathBuf,
    target: String,
    inputs: Vec<String>,
    profile: [[usize; 2]; 3],
}

/// What came of it.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct TensorRtDone {
    library: String,
    summary: String,
    warnings: Vec<String>,
}

/// Longest that a compile may take.
const TENSORRT_LIMIT: Duration = Duration::from_secs(1800);

/// The name of the child's job.
pub const TENSORRT_JOB: &str = "tensorrt";

fn compile_tensorrt_in_child(job: &TensorRtJob) -> Result<TensorRtDone> {
    if !cfg!(feature = "tensorrt") {
        return Err(Error::runtime_missing("this kilnc was built without TensorRT")
            .hint("build it with: cargo build --release --features tensorrt (needs libclang and a C++ compiler)"));
    }
    runtime::library::TENSORRT_RTX.find()?;
    child::ask(TENSORRT_JOB, job, TENSORRT_LIMIT, "compiling with TensorRT for RTX")
}

/// The child's side of a TensorRT engine.
#[cfg(feature = "tensorrt")]
pub fn compile_tensorrt(job: TensorRtJob) -> Result<TensorRtDone> {
    use crate::back::tensorrt::{CompileOptions, InputProfile, Libraries, compile};

    let library = runtime::library::TENSORRT_RTX.find()?;
    let libraries = Libraries::in_folder(library.parent().unwrap_or(Path::new("")));
    let Target::TensorRtRtx(capability) = job.target.parse()? else {
        return Err(Error::bug(format!("{} is no target of TensorRT", job.target)));
    };
    let [min, opt, max] = job.profile.map(|shape| shape.map(|n| n as i64).to_vec());
    let range =
        |input: &String| InputProfile { input: input.clone(), min: min.clone(), opt: opt.clone(), max: max.clone() };
    let options = CompileOptions {
        capabilities: vec![capability],
        profiles: vec![job.inputs.iter().map(range).collect()],
        workspace_bytes: None,
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |e: std::io::Error| Error::io("writing", &path, &e)
    };
    let mut plan = Vec::new();
    let report = compile(&libraries, &job.onnx, &options, &mut plan)?;
    std::fs::write(&job.plan, &plan).map_err(failed(&job.plan))?;
    let layers = serde_json::to_vec_pretty(&report.layers).map_err(|e| Error::bug(format!("the layer list: {e}")))?;
    std::fs::write(&job.layers, layers).map_err(failed(&job.layers))?;
    Ok(TensorRtDone {
        library: format!("TensorRT for RTX {}", report.library_version),
        summary: report.summary().to_string(),
        warnings: report.warnings,
    })
}
