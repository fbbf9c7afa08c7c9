//! Collects statistics of a model before it is quantized, once for all engines that are made of it.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::build::step_cache::{self, Step, StepCache};
use crate::bundle::{self, CalibrationEntry};
use crate::calibrate::sample::Sampling;
use crate::calibrate::{Calibration, Collection, Estimator, Saved, Spec, collect, save};
use crate::digest;
use crate::error::{Error, Result};
use crate::front::hub::load::Model;
use crate::ir::Graph;
use crate::json::file_name;
use crate::observer::Observer;
use crate::output::Stage;
use crate::presence;
use crate::runtime::Named;
use crate::verify::Verified;

/// Texts of the task, and the model's statistics on them.
pub struct Calibrator<'a> {
    source: Source,
    name: String,
    observer: &'a dyn Observer,
    origin: Origin,
    step_cache: Option<&'a StepCache<'a>>,
    /// By the text of the graph that was run: targets with equal graphs share the statistics.
    found: RefCell<Vec<(String, Calibration)>>,
    /// The counts of the first run, in this build or in the one that made a cached engine.
    observed: Cell<Option<Observed>>,
    warned: Cell<bool>,
}

/// The counts of a model's run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::build) struct Observed {
    texts: usize,
    tokens: usize,
}

/// Where the texts come from.
#[derive(Default)]
pub(in crate::build) struct Origin {
    /// No one gave any.
    pub built_in: bool,
    /// The input.
    pub files: Vec<PathBuf>,
    /// How they were chosen.
    pub sampling: Option<Sampling>,
    /// How many were longer than the model.
    pub cut: usize,
    /// How ranges are found that are fixed in the engine.
    pub estimator: Estimator,
}

enum Source {
    /// Texts as the engine takes them, each alone, and a folder for the time of the build.
    Inputs(Vec<Named>, PathBuf),
    Saved(Saved),
}

impl<'a> Calibrator<'a> {
    /// `inputs` are the texts of the file `name` as the engine takes them, each alone; `scratch` is a folder for the
    /// time of the build.
    pub fn new(name: &str, inputs: Vec<Named>, scratch: PathBuf, observer: &'a dyn Observer) -> Calibrator<'a> {
        Calibrator::of(name, Source::Inputs(inputs, scratch), observer)
    }

    /// Knows the statistics of another run, saved in the file `name`.
    pub fn saved(name: &str, saved: Saved, observer: &'a dyn Observer) -> Calibrator<'a> {
        Calibrator::of(name, Source::Saved(saved), observer)
    }

    fn of(name: &str, source: Source, observer: &'a dyn Observer) -> Calibrator<'a> {
        Calibrator {
            source,
            name: name.to_owned(),
            observer,
            origin: Origin::default(),
            step_cache: None,
            found: RefCell::default(),
            observed: Cell::default(),
            warned: Cell::default(),
        }
    }

    pub(in crate::build) fn with_origin(self, origin: Origin) -> Calibrator<'a> {
        Calibrator { origin, ..self }
    }

    pub(in crate::build) fn with_step_cache(self, step_cache: &'a StepCache<'a>) -> Calibrator<'a> {
        Calibrator { step_cache: Some(step_cache), ..self }
    }

    /// The cache key of the statistics: the texts, or the file in which they were saved.
    pub(in crate::build) fn identity(&self) -> Result<String> {
        match &self.source {
            Source::Inputs(inputs, _) => Ok(format!(
                "{} {} {}",
                step_cache::inputs_digest(inputs),
                self.estimator(),
                step_cache::collected_with()?
            )),
            Source::Saved(_) => {
                let digests: Vec<String> =
                    self.origin.files.iter().map(|path| Ok(digest::of_file(path)?.1)).collect::<Result<_>>()?;
                Ok(format!("{} {}", digests.join(" "), self.estimator()))
            }
        }
    }

    /// A cached engine was calibrated on this before.
    pub(in crate::build) fn recall(&self, observed: Observed) {
        self.warn_of_built_in();
        self.observed.set(self.observed.get().or(Some(observed)));
    }

    /// The counts, where there are any.
    pub(in crate::build) fn observed(&self) -> Option<Observed> {
        self.observed.get()
    }

    /// The statistics of `graph` on the texts.
    pub fn on(&self, graph: &Verified<Graph>) -> Result<Calibration> {
        let key = graph.to_string();
        if let Some((_, found)) = self.found.borrow().iter().find(|(text, _)| *text == key) {
            return Ok(found.clone());
        }
        let found = match &self.source {
            Source::Saved(saved) => {
                self.observer.begin("reading saved calibration", None);
                let found = saved.of(graph).map_err(|e| e.at(self.name.clone()))?;
                self.observer.done(&format!("saved calibration on {} texts, of {}", found.texts, self.name));
                found
            }
            Source::Inputs(inputs, scratch) => {
                self.warn_of_built_in();
                match self.step_cache.filter(|step_cache| step_cache.is_on()) {
                    Some(step_cache) => self.collect_once(step_cache, graph, inputs, scratch)?,
                    None => self.collect(graph, inputs, scratch)?,
                }
            }
        };
        self.observed.set(self.observed.get().or(Some(Observed { texts: found.texts, tokens: found.tokens })));
        self.found.borrow_mut().push((key, found.clone()));
        Ok(found)
    }

    fn warn_of_built_in(&self) {
        if self.origin.built_in && !self.warned.replace(true) {
            let count = self.inputs().map_or(0, <[Named]>::len);
            self.observer.warn(&format!(
                "no texts of the task are given: 8-bit layers are calibrated on {count} built-in ones, which are less accurate \
                 well; give some with --calibration FILE"
            ));
        }
    }

    /// Warns that half precision is built without a check of its range.
    pub(in crate::build) fn warn_of_unknown_ranges(&self) {
        self.observer.warn(&format!(
            "{} does not show how large the values inside the model become: no layer of half precision is kept in FP32 for \
             its range; calibrate with texts to know",
            self.name
        ));
    }

    /// Collects, unless another build did.
    fn collect_once(
        &self,
        step_cache: &StepCache,
        graph: &Verified<Graph>,
        inputs: &[Named],
        scratch: &Path,
    ) -> Result<Calibration> {
        let file = scratch.join("seen.kcal");
        let from = || Ok((graph.fingerprint()?, step_cache::inputs_digest(inputs), step_cache::collected_with()?));
        let mut fresh = None;
        let step = Step { kind: "calibration", name: &self.name, into: scratch };
        let (_, before): ((), bool) = step_cache.made(step, from, || {
            let found = (graph.to_string(), self.collect(graph, inputs, scratch)?);
            save(&file, "", std::slice::from_ref(&found))?;
            fresh = Some(found.1);
            Ok(((), vec![file.clone()]))
        })?;
        let found = match fresh {
            Some(found) => found,
            None => Saved::open(&file, "")?.of(graph)?,
        };
        if before {
            self.observer.done(&format!("calibrated on {} texts of {}, from the cache", found.texts, self.name));
        }
        std::fs::remove_file(&file).map_err(|e| Error::io("removing", &file, &e))?;
        Ok(found)
    }

    fn collect(&self, graph: &Verified<Graph>, inputs: &[Named], scratch: &Path) -> Result<Calibration> {
        self.observer.begin_texts("calibrating", inputs.len() as u64);
        let start = std::time::Instant::now();
        let progress = || self.observer.advance(1);
        let plan = Collection { graph, inputs, scratch, progress: &progress };
        let found = collect(&plan).map_err(|e| e.at(self.name.clone()))?;
        let rate = found.texts as f64 / start.elapsed().as_secs_f64();
        let cut = if self.origin.cut == 0 {
            String::new()
        } else {
            format!("{} cut to the model's length, ", self.origin.cut)
        };
        self.observer.done(&format!(
            "calibrated on {} texts of {}: {} tokens, {cut}{rate:.0} texts a second",
            found.texts, self.name, found.tokens
        ));
        Ok(found)
    }

    /// The texts as the engine takes them, each alone; none, where only their statistics are known.
    pub fn inputs(&self) -> Option<&[Named]> {
        match &self.source {
            Source::Inputs(inputs, _) => Some(inputs),
            Source::Saved(_) => None,
        }
    }

    /// The result of `find` for `graph` on the texts, or its cached result; `kind` names it.
    pub(in crate::build) fn once<V: Serialize + DeserializeOwned>(
        &self,
        kind: &'static str,
        graph: &Verified<Graph>,
        find: impl FnOnce() -> Result<V>,
    ) -> Result<V> {
        let (Some(step_cache), Source::Inputs(inputs, scratch)) = (self.step_cache, &self.source) else {
            return find();
        };
        let from = || Ok((graph.fingerprint()?, step_cache::inputs_digest(inputs)));
        let step = Step { kind, name: &self.name, into: scratch };
        step_cache.made(step, from, || Ok((find()?, Vec::new()))).map(|(found, _)| found)
    }

    /// How ranges are found that are fixed in the engine.
    pub fn estimator(&self) -> Estimator {
        self.origin.estimator
    }

    /// Whether any engine was calibrated.
    pub fn used(&self) -> bool {
        self.observed.get().is_some()
    }

    /// The manifest's entry; none, where no engine was calibrated.
    pub fn entry(&self) -> Result<Option<CalibrationEntry>> {
        let Some(observed) = self.observed.get() else { return Ok(None) };
        let digest = |path: &PathBuf| bundle::digest_source(path, path.parent().unwrap_or(Path::new("")));
        Ok(Some(CalibrationEntry {
            from: self.name.clone(),
            files: self.origin.files.iter().map(digest).collect::<Result<_>>()?,
            seed: self.origin.sampling.map(|sampling| sampling.seed),
            texts: observed.texts,
            tokens: observed.tokens,
            cut: self.origin.cut,
        }))
    }
}

/// The path of the file for the statistics, claimed before the work begins.
pub struct CalibrationOutput {
    name: String,
    stage: Stage,
}

impl CalibrationOutput {
    /// The path that a recipe names, if it does.
    pub fn claim(spec: &Spec) -> Result<Option<CalibrationOutput>> {
        let Some(path) = &spec.save else { return Ok(None) };
        spec.check()?;
        Ok(Some(CalibrationOutput { name: file_name(path), stage: Stage::new(path, presence::is_file)? }))
    }

    /// Saves the statistics. Fails where no engine was calibrated.
    pub fn put(self, calibrator: &Calibrator, model: &Model) -> Result<()> {
        if !calibrator.used() {
            return Err(Error::bad_input("no statistics were collected that could be saved: no engine is in 8 bits"));
        }
        save(&self.stage.path(&self.name), &weights_digest(model)?, &calibrator.found.borrow())?;
        self.stage.commit_files(&[&self.name])
    }
}

/// The identity of a model's weights: a digest of all files that they come from.
pub(in crate::build) fn weights_digest(model: &Model) -> Result<String> {
    let weights = model.checkpoint.files.iter().filter(|path| path.extension().is_none_or(|e| e != "json"));
    let mut lines = String::new();
    for path in weights {
        lines += &bundle::digest_source(path, &model.checkpoint.dir)?.sha256;
    }
    for (source, merged) in &model.merged {
        for path in &merged.files {
            lines += &bundle::digest_source(path, &source.dir)?.sha256;
        }
        lines += &format!("@{}\n", source.scale);
    }
    Ok(digest::of(lines.as_bytes()))
}
