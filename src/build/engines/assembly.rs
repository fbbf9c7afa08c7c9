//! Makes the parts of a bundle in its stage.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::compile::compile;
use super::formats::{computes_in_half, hints};
use super::hub_files;
use super::scheme::Scheme;
use super::tensorrt::{TensorRtJob, TensorRtOptions, compile_once};
use crate::back::onnx;
use crate::build::calibration::{Calibrator, Observed};
use crate::build::pair_prompt;
use crate::build::plan::{BuildPlan, EnginePlan, layers_of};
use crate::build::step_cache::{self, Step, StepCache};
use crate::bundle::runtimes::BundledRuntimes;
use crate::bundle::{
    self, AdapterEntry, BenchEntry, ComponentEntry, EngineEntry, LicenceEntry, Manifest, PassEntry, PoolingEntry,
    PromptEntry, Skipped, ZerosEntry,
};
use crate::error::{Error, Kind, Result};
use crate::front::folder::Folder;
use crate::front::hub::adapter::{AdapterSource, Merged};
use crate::front::hub::checkpoint::{GENERATION, GenerationConfig, chat_template_files, licence};
use crate::front::hub::load::Model;
use crate::front::hub::load::limits;
use crate::ir::weight::Int8Range;
use crate::json;
use crate::observer::Observer;
use crate::output::{Stage, write_json};
use crate::passes::{Half, Manager, Ran};
use crate::presence;
use crate::program::{Component, Program};
use crate::prune::{self, Sparsity};
use crate::runtime::Classes;
use crate::shapes::Shapes;
use crate::task::Task;
use crate::vocabulary::CutReport;

/// An engine of the bundle while it is made.
pub(in crate::build) struct Made {
    /// Its entry in the manifest.
    pub entry: EngineEntry,
    /// Its part of the plan.
    pub planned: EnginePlan,
    /// Its ONNX file in the stage. A TensorRT engine's is there until its outputs have been checked.
    pub onnx: PathBuf,
}

/// An ONNX file that was written.
#[derive(Serialize, Deserialize)]
struct Written {
    entry: EngineEntry,
    bytes: u64,
    /// What it was calibrated on.
    seen: Option<Observed>,
}

/// The pruning of the trained model.
pub(in crate::build) struct Removed {
    /// Of its layers.
    pub pruning: Option<prune::Report>,
    /// Of its vocabulary.
    pub vocabulary: Option<CutReport>,
}

/// A bundle that is being put together.
pub(in crate::build) struct Assembly<'a> {
    pub plan: &'a BuildPlan<'a>,
    pub model: &'a Model,
    pub stage: &'a Stage,
    pub observer: &'a dyn Observer,
    calibrator: &'a Calibrator<'a>,
    pub step_cache: &'a StepCache<'a>,
    /// That of the model's program.
    fingerprint: OnceCell<String>,
    pub made: Vec<Made>,
    /// The bundled runtimes.
    pub runtimes: BundledRuntimes,
    /// How fast its engines were.
    pub bench: Option<BenchEntry>,
    skipped: Vec<Skipped>,
    /// Gates that were requested and cannot be checked here: the engine, and why.
    pub unmade: Vec<(String, Error)>,
    /// An engine in FP32 that cannot be compared with the golden file here, and why.
    pub not_golden: Option<(String, Error)>,
}

impl<'a> Assembly<'a> {
    pub fn new(
        plan: &'a BuildPlan<'a>,
        model: &'a Model,
        stage: &'a Stage,
        calibrator: &'a Calibrator<'a>,
        step_cache: &'a StepCache<'a>,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        if plan.model_file.is_none() {
            std::fs::create_dir_all(stage.path("engines")).map_err(|e| Error::io("writing to", stage.dir(), &e))?;
        }
        Ok(Assembly {
            plan,
            model,
            stage,
            observer,
            calibrator,
            step_cache,
            fingerprint: OnceCell::new(),
            made: Vec::new(),
            runtimes: BundledRuntimes::default(),
            bench: None,
            skipped: Vec::new(),
            unmade: Vec::new(),
            not_golden: None,
        })
    }

    /// Makes one engine. One that this machine cannot make is skipped, unless the build is strict.
    pub fn engine(&mut self, planned: &EnginePlan, max_length: usize) -> Result<()> {
        match self.make(planned, max_length) {
            Ok(made) => self.made.push(made),
            Err(e) if e.kind() == Kind::RuntimeMissing && !self.plan.request.strict => {
                self.skip(planned, &e)?;
                if planned.is_gated() {
                    self.unmade.push((planned.name.clone(), e));
                }
            }
            Err(e) => return Err(e.at(format!("engine {}", planned.name))),
        }
        Ok(())
    }

    /// Fails where not one engine could be made: a bundle of none has nothing to check and nothing to run.
    pub fn check_any(&self) -> Result<()> {
        match self.skipped.first().filter(|_| self.made.is_empty()) {
            Some(Skipped { engine, reason }) => {
                Err(Error::runtime_missing(format!("no engine can be built here: {engine}: {reason}")))
            }
            None => Ok(()),
        }
    }

    fn make(&self, planned: &EnginePlan, max_length: usize) -> Result<Made> {
        let EnginePlan { spec, name, .. } = planned;
        let onnx = self.stage.path(&planned.onnx);
        let (written, before) = if spec.precision.is_calibrated() && self.plan.request.recipe.calibration.save.is_some()
        {
            // Saved calibration is checked by itself.
            (self.write(planned, &onnx)?.0, false)
        } else {
            let step = Step { kind: "engine", name, into: onnx.parent().unwrap_or(Path::new("")) };
            let make = || self.write(planned, &onnx);
            self.step_cache.made(step, || self.follows_from(planned), make)?
        };
        if let Some(seen) = written.seen.filter(|_| before) {
            self.calibrator.recall(seen);
        }
        let mut entry = written.entry;
        for line in entry.passes.iter().filter(|pass| pass.name == Half::NAME).flat_map(|pass| &pass.left) {
            self.observer.warn(&format!("{name}: {line}"));
        }
        let mut plan = String::new();
        if spec.target.wants_plan() {
            let before = self.compile_plan(planned, &onnx, max_length, &mut entry)?;
            let layers = entry.layers.as_deref().unwrap_or_default();
            plan = format!(" → a plan of {layers}{}", step_cache::summary(before));
        }
        let megabytes = written.bytes as f64 / 1e6;
        self.observer.done(&format!("{name}: {megabytes:.1} MB of ONNX{}{plan}", step_cache::summary(before)));
        Ok(Made { entry, planned: planned.clone(), onnx })
    }

    /// All that an engine's file follows from.
    fn follows_from(&self, EnginePlan { spec, onnx, range, .. }: &EnginePlan) -> Result<impl Serialize + use<>> {
        let reads_texts = spec.precision.is_calibrated() || computes_in_half(&spec.target, spec.precision);
        let calibrated = reads_texts.then(|| self.calibrator.identity()).transpose()?;
        let keep: Vec<String> = spec.keep.iter().map(ToString::to_string).collect();
        let pattern = self.plan.pattern.map(|pattern| pattern.to_string());
        Ok((
            self.fingerprint()?,
            onnx.clone(),
            spec.target.to_string(),
            spec.precision,
            *range == Int8Range::Reduced,
            keep,
            pattern,
            calibrated,
        ))
    }

    /// The fingerprint of the model's program, found once for all engines.
    fn fingerprint(&self) -> Result<String> {
        if let Some(found) = self.fingerprint.get() {
            return Ok(found.clone());
        }
        let found = self.model.program.fingerprint()?;
        Ok(self.fingerprint.get_or_init(|| found).clone())
    }

    /// The components of an engine, lowered for its target.
    pub fn program(&self, EnginePlan { spec, range, .. }: &EnginePlan, manager: &mut Manager) -> Result<Program> {
        let scheme = Scheme {
            target: &spec.target,
            precision: spec.precision,
            keep: &spec.keep,
            calibrator: Some(self.calibrator),
            keep_order: self.plan.pattern.is_some(),
            range: *range,
        };
        self.model.program.map(|component| compile(&component.graph, &scheme, manager))
    }

    /// Writes the ONNX file of an engine.
    fn write(&self, planned: &EnginePlan, onnx: &Path) -> Result<(Written, Vec<PathBuf>)> {
        let EnginePlan { spec, name, .. } = planned;
        let mut manager = Manager::default();
        let program = self.program(planned, &mut manager)?;
        let weights = program.components().flat_map(|component| component.graph.weights());
        let total = weights.map(|(_, _, weight)| weight.byte_len() as u64).sum();
        self.observer.begin(name, Some(total));
        let metadata = hints(&spec.target, spec.precision).metadata();
        let components: Vec<(&Component, String)> =
            program.components().map(|component| (component, planned.file_of(component))).collect();
        let progress = |bytes| self.observer.advance(bytes);
        let written = match components.as_slice() {
            [(component, _)] => onnx::write_with(&component.graph, onnx, &metadata, &progress)?,
            several => {
                let paths: Vec<_> = several.iter().map(|(_, file)| self.stage.path(file)).collect();
                let graphs =
                    several.iter().zip(&paths).map(|((component, _), path)| (&component.graph, path.as_path()));
                let data = onnx.with_extension("onnx_data");
                onnx::write_components(&graphs.collect::<Vec<_>>(), &data, &metadata, &progress)?
            }
        };
        let entry = EngineEntry {
            name: name.clone(),
            target: spec.target.to_string(),
            runtime: planned.runtime,
            precision: spec.precision,
            reduced_range: planned.range == Int8Range::Reduced,
            components: components.into_iter().map(|(component, file)| ComponentEntry::of(component, file)).collect(),
            passes: manager.ran.iter().map(pass_entry).collect(),
            compiled_by: None,
            compiled_on: None,
            shapes: Vec::new(),
            layers: None,
            zeros: self.plan.pattern.map(|pattern| zeros(onnx, pattern)).transpose()?,
            gates: Vec::new(),
        };
        let seen = self.calibrator.observed().filter(|_| spec.precision.is_calibrated());
        Ok((Written { entry, bytes: written.bytes, seen }, written.files))
    }

    /// Has TensorRT compile an ONNX file, in a child process, and makes the plan the engine's file. Returns whether it was
    /// there before.
    fn compile_plan(
        &self,
        planned: &EnginePlan,
        onnx: &Path,
        max_length: usize,
        entry: &mut EngineEntry,
    ) -> Result<bool> {
        let spec = &planned.spec;
        let shapes = match spec.shapes.as_slice() {
            [] if self.model.task == Task::TextGeneration => Shapes::decoding_up_to(max_length),
            [] => vec![Shapes::up_to(max_length)],
            given => given.to_vec(),
        };
        let plan = planned.plan();
        let job = TensorRtJob {
            onnx: onnx.into(),
            plan: self.stage.path(&plan),
            layers: self.stage.path(&planned.layers()),
            target: spec.target.to_string(),
            shapes,
            options: TensorRtOptions { sparse_weights: self.plan.pattern.is_some(), ..TensorRtOptions::default() },
        };
        let (compiled, before) = compile_once(self.step_cache, &entry.name, &job)?;
        compiled.warnings.iter().for_each(|warning| self.observer.warn(&format!("{}: {warning}", entry.name)));
        entry.components.iter_mut().for_each(|component| component.file = plan.clone());
        entry.shapes = job.shapes;
        entry.compiled_by = Some(compiled.library);
        entry.compiled_on = compiled.compiled_on;
        entry.layers = Some(compiled.summary);
        Ok(before)
    }

    fn skip(&mut self, planned: &EnginePlan, why: &Error) -> Result<()> {
        let all: Vec<&str> = std::iter::once(why.message()).chain(why.hints().iter().map(String::as_str)).collect();
        self.observer.warn(&format!("{} is SKIPPED: {}", planned.name, all.join("; ")));
        // The bundle goes to other machines, and two builds of one are the same.
        let reason = [why.portable()].into_iter().chain(why.portable_hints().map(str::to_owned));
        let reason = reason.collect::<Vec<_>>().join("; ");
        let onnx = self.stage.path(&planned.onnx);
        self.skipped.push(Skipped { engine: planned.name.clone(), reason });
        if presence::is_file(&onnx)? { remove(&onnx) } else { Ok(()) }
    }

    /// What the checkpoint says of generation and the file that says it, where that is the model's task.
    fn generation(&self) -> Result<Option<(GenerationConfig, Option<PathBuf>)>> {
        if self.model.task != Task::TextGeneration {
            return Ok(None);
        }
        let read = GenerationConfig::read(&self.model.checkpoint)?;
        if !read.0.not_applied.is_empty() {
            let (file, fields) = (GENERATION, read.0.not_applied.join(", "));
            self.observer.warn(&format!("{file} asks for {fields}, which is not applied"));
        }
        if self.model.tokenizer.cleans_up {
            self.observer.warn(
                "tokenizer_config.json: clean_up_tokenization_spaces is true, which is not applied: spaces before \
                 punctuation stay in generated texts",
            );
        }
        let chat = bundle::chat_templates(&self.model.tokenizer.folder);
        let unread = |e: Error| {
            let places: String = e.locations().iter().map(|place| format!(" in {place}")).collect();
            self.observer.warn(&format!("{}{places}: run --chat will fail", e.message()));
        };
        match chat {
            Ok(templates) => templates.malformed().for_each(unread),
            Err(e) if e.kind() == Kind::MachineFailed => return Err(e),
            Err(e) => unread(e),
        }
        let (config, file) = read;
        let config = match &self.model.renumbered {
            Some(numbers) => config.renumbered(numbers),
            None => config,
        };
        Ok(Some((config, file)))
    }

    /// Copies the bundled runtimes, and writes the manifest last; a lone model needs neither.
    pub fn finish(self, classes: Classes, max_length: usize, cut: Removed) -> Result<Manifest> {
        let tokenizer = &self.model.tokenizer;
        if self.plan.model_file.is_none() {
            let copy = self.stage.path(bundle::TOKENIZER);
            std::fs::write(&copy, tokenizer.text()?).map_err(|e| Error::io("writing", &copy, &e))?;
            hub_files::keep(self.model, &classes, max_length, self.stage.dir())?;
        }
        // One that came with an adapter is among its files.
        let folder = &tokenizer.folder;
        let chat: Vec<PathBuf> = chat_template_files(folder)?.iter().filter_map(|name| folder.file(name)).collect();
        let own = tokenizer.files.iter().chain(&chat).filter(|path| path.starts_with(&self.model.checkpoint.dir));
        let sources = self.model.checkpoint.files.iter().chain(own);
        let generation = self.generation()?;
        let sources = sources.chain(generation.as_ref().and_then(|(_, file)| file.as_ref()));
        let timed = self.bench.is_some().then(|| bundle::MANIFEST.to_owned());
        let pair_prompt = pair_prompt::of(self.model)?;
        let mut manifest = Manifest {
            schema: bundle::SCHEMA.to_owned(),
            kilnc: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.plan.name.clone(),
            model_type: self.model.checkpoint.common.model_type.clone().unwrap_or_default(),
            task: self.model.task,
            max_length,
            positions: limits::positions(self.model.graph()),
            long_texts: limits::long_texts(self.model.graph()),
            generation: generation.as_ref().map(|(config, _)| config.clone()),
            pipeline: pair_prompt::settings(
                self.plan.request.recipe.pipeline.over(self.model.pipeline),
                pair_prompt.as_ref(),
            ),
            prompt: self.model.prompt.as_ref().map(PromptEntry::of),
            pair_prompt,
            prompts: self.model.prompts.iter().map(PromptEntry::of).collect(),
            context_first: self.model.context_first(),
            mask: self.model.tokenizer.mask.clone().filter(|_| self.model.task == Task::FillMask),
            pooling: pooling(self.model),
            labels: classes.labels,
            problem_type: (self.model.task == Task::TextClassification).then_some(classes.problem_type),
            sources: sources
                .map(|path| bundle::digest_source(path, &self.model.checkpoint.dir))
                .collect::<Result<_>>()?,
            adapters: self.model.merged.iter().map(adapter_entry).collect::<Result<_>>()?,
            combined: self.plan.request.source.combine.as_ref().map(ToString::to_string),
            licences: licences(self.model)?,
            calibration: self.calibrator.entry()?,
            pruning: cut.pruning,
            vocabulary: cut.vocabulary,
            varying: self.made.iter().flat_map(|made| varying(&made.entry)).chain(timed).collect(),
            bench: self.bench,
            engines: self.made.into_iter().map(|made| made.entry).collect(),
            skipped: self.skipped,
            runtimes: self.runtimes,
            files: bundle::digest_tree(self.stage.dir())?,
        };
        if self.plan.model_file.is_some() {
            return Ok(manifest);
        }
        // The bill holds the digests of the engines, and the manifest that of the bill.
        let bill = self.stage.path(bundle::BOM);
        write_json(&bill, &json::sorted(bundle::bom(&manifest)))?;
        manifest.files.push(bundle::digest(&bill, bundle::BOM)?);
        manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
        write_json(&self.stage.path(bundle::MANIFEST), &manifest)?;
        Ok(manifest)
    }
}

/// How a model makes one vector of a text, where that is its task.
fn pooling(model: &Model) -> Option<PoolingEntry> {
    let sentence = model.checkpoint.sentence.as_ref().filter(|_| model.task == Task::SentenceSimilarity);
    PoolingEntry::of(sentence?)
}

/// The licences of a model's sources.
fn licences(model: &Model) -> Result<Vec<LicenceEntry>> {
    let entry = |dir: &Path, folder: &Folder| {
        let stated = licence::of(folder)?;
        Ok(LicenceEntry { of: json::file_name(dir), licence: stated.name, from: stated.from.map(str::to_owned) })
    };
    let checkpoint = entry(&model.checkpoint.dir, &model.checkpoint.around());
    let adapters = model.merged.iter().map(|(source, _)| entry(&source.dir, &source.dir.as_path().into()));
    std::iter::once(checkpoint).chain(adapters).collect()
}

/// The files of an engine whose bytes are chosen anew by every run of a compiling library.
fn varying(entry: &EngineEntry) -> Vec<String> {
    match entry.compiled_by {
        Some(_) => entry.files().map(str::to_owned).chain([layers_of(&entry.name)]).collect(),
        None => Vec::new(),
    }
}

/// Checks the pattern of zeros in the matrices of a written file.
fn zeros(onnx: &Path, pattern: Sparsity) -> Result<ZerosEntry> {
    let matrices = onnx::matrices(onnx)?;
    let holds =
        |matrix: &&onnx::Matrix| pattern.holds(&matrix.zeros.iter().map(|zero| !zero).collect::<Vec<_>>(), matrix.n);
    Ok(ZerosEntry {
        pattern: pattern.to_string(),
        matrices: matrices.len(),
        holding: matrices.iter().filter(holds).count(),
    })
}

/// Removes an ONNX file of the stage that is not part of the bundle, and the weights beside it.
pub(in crate::build) fn remove(path: &Path) -> Result<()> {
    step_cache::model_files(path)?
        .iter()
        .try_for_each(|path| std::fs::remove_file(path).map_err(|e| Error::io("removing", path, &e)))
}

fn pass_entry(ran: &Ran) -> PassEntry {
    PassEntry { name: ran.name.to_owned(), changed: ran.report.changed, left: ran.report.left.clone() }
}

/// The manifest's entry of an adapter.
pub(in crate::build) fn adapter_entry((source, merged): &(AdapterSource, Merged)) -> Result<AdapterEntry> {
    Ok(AdapterEntry {
        name: json::file_name(&source.dir),
        kind: merged.kind.to_owned(),
        scale: source.scale,
        changed: merged.changed,
        inserted: merged.inserted,
        tokens: merged.tokens,
        untouched: merged.untouched.clone(),
        saved: merged.saved.clone(),
        files: merged.files.iter().map(|path| bundle::digest_source(path, &source.dir)).collect::<Result<_>>()?,
    })
}
