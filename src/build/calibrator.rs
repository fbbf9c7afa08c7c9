//! Looks into a model before it is quantized, once for all engines that are made of it.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::step_cache::{self, Step, StepCache};
use super::{Model, Observer};
use crate::bundle::{self, CalibrationEntry};
use crate::calibrate::sample::Draw;
use crate::calibrate::{Calibration, Collection, Estimator, Saved, Spec, collect, save};
use crate::digest;
use crate::error::{Error, Result};
use crate::ir::Graph;
use crate::json::file_name;
use crate::output::Stage;
use crate::presence;
use crate::runtime::Named;
use crate::verify::Verified;

/// Texts of the task, and what was seen of the model on them.
pub struct Calibrator<'a> {
    source: Source,
    name: String,
    observer: &'a dyn Observer,
    origin: Origin,
    step_cache: Option<&'a StepCache<'a>>,
    /// By the text of the graph that was run: targets whose graphs are alike share what was seen.
    found: RefCell<Vec<(String, Calibration)>>,
    /// How much was seen first, in this build or in the one that made an engine which was kept.
    seen: Cell<Option<Observed>>,
    warned: Cell<bool>,
}

/// How much was seen of a model.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Observed {
    texts: usize,
    tokens: usize,
}

/// Where the texts come from.
#[derive(Default)]
pub(super) struct Origin {
    /// No one gave any.
    pub built_in: bool,
    /// What was read.
    pub files: Vec<PathBuf>,
    /// How they were chosen.
    pub draw: Option<Draw>,
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

    /// Knows what was seen in another run, and kept in the file `name`.
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
            seen: Cell::default(),
            warned: Cell::default(),
        }
    }

    pub(super) fn with_origin(self, origin: Origin) -> Calibrator<'a> {
        Calibrator { origin, ..self }
    }

    pub(super) fn with_step_cache(self, step_cache: &'a StepCache<'a>) -> Calibrator<'a> {
        Calibrator { step_cache: Some(step_cache), ..self }
    }

    /// What tells what would be seen from what others would see: the texts, or the file in which it was kept.
    pub(super) fn identity(&self) -> Result<String> {
        match &self.source {
            Source::Inputs(inputs, _) => {
                Ok(format!("{} {} {}", step_cache::inputs_digest(inputs), self.estimator(), step_cache::looked_with()?))
            }
            Source::Saved(_) => {
                let digests: Vec<String> =
                    self.origin.files.iter().map(|path| Ok(digest::of_file(path)?.1)).collect::<Result<_>>()?;
                Ok(format!("{} {}", digests.join(" "), self.estimator()))
            }
        }
    }

    /// An engine is at hand that was fitted to this before.
    pub(super) fn recall(&self, seen: Observed) {
        self.warn_of_built_in();
        self.seen.set(self.seen.get().or(Some(seen)));
    }

    /// How much was seen, where something was.
    pub(super) fn seen(&self) -> Option<Observed> {
        self.seen.get()
    }

    /// What is seen of `graph` on the texts.
    pub fn on(&self, graph: &Verified<Graph>) -> Result<Calibration> {
        let key = graph.to_string();
        if let Some((_, found)) = self.found.borrow().iter().find(|(text, _)| *text == key) {
            return Ok(found.clone());
        }
        let found = match &self.source {
            Source::Saved(saved) => {
                self.observer.begin("reading what was seen", None);
                let found = saved.of(graph).map_err(|e| e.at(self.name.clone()))?;
                self.observer.done(&format!("what was seen on {} texts, of {}", found.texts, self.name));
                found
            }
            Source::Inputs(inputs, scratch) => {
                self.warn_of_built_in();
                match self.step_cache.filter(|step_cache| step_cache.is_on()) {
                    Some(step_cache) => self.look_once(step_cache, graph, inputs, scratch)?,
                    None => self.collect(graph, inputs, scratch)?,
                }
            }
        };
        self.seen.set(self.seen.get().or(Some(Observed { texts: found.texts, tokens: found.tokens })));
        self.found.borrow_mut().push((key, found.clone()));
        Ok(found)
    }

    fn warn_of_built_in(&self) {
        if self.origin.built_in && !self.warned.replace(true) {
            let count = self.inputs().map_or(0, <[Named]>::len);
            self.observer.warn(&format!(
                "no texts of the task are given: 8-bit layers are fitted to {count} built-in ones, and answers hold less \
                 well; give some with --calibration FILE"
            ));
        }
    }

    /// Says that half precision is built without a look at its range.
    pub(super) fn warn_of_unknown_ranges(&self) {
        self.observer.warn(&format!(
            "{} does not say how large the values inside the model become: no layer of half precision is kept in FP32 for \
             its range; calibrate with texts to know",
            self.name
        ));
    }

    /// Looks, unless another build did.
    fn look_once(
        &self,
        step_cache: &StepCache,
        graph: &Verified<Graph>,
        inputs: &[Named],
        scratch: &Path,
    ) -> Result<Calibration> {
        let file = scratch.join("seen.kcal");
        let from = || Ok((graph.fingerprint()?, step_cache::inputs_digest(inputs), step_cache::looked_with()?));
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
            self.observer.done(&format!("what {} texts of {} showed, as it was seen before", found.texts, self.name));
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

    /// The texts as the engine takes them, each alone; none, where only what was seen of them is known.
    pub fn inputs(&self) -> Option<&[Named]> {
        match &self.source {
            Source::Inputs(inputs, _) => Some(inputs),
            Source::Saved(_) => None,
        }
    }

    /// What `find` finds of `graph` on the texts, or found before; `kind` says what it is.
    pub(super) fn once<V: Serialize + DeserializeOwned>(
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

    /// Whether any engine was fitted.
    pub fn used(&self) -> bool {
        self.seen.get().is_some()
    }

    /// What a manifest says of it; nothing, where no engine was fitted.
    pub fn entry(&self) -> Result<Option<CalibrationEntry>> {
        let Some(seen) = self.seen.get() else { return Ok(None) };
        let digest = |path: &PathBuf| bundle::digest_source(path, path.parent().unwrap_or(Path::new("")));
        Ok(Some(CalibrationEntry {
            from: self.name.clone(),
            files: self.origin.files.iter().map(digest).collect::<Result<_>>()?,
            seed: self.origin.draw.map(|draw| draw.seed),
            texts: seen.texts,
            tokens: seen.tokens,
            cut: self.origin.cut,
        }))
    }
}

/// The place of the file for what is seen, claimed before the work begins.
pub struct CalibrationOutput {
    name: String,
    stage: Stage,
}

impl CalibrationOutput {
    /// The place that a recipe names, if it does.
    pub fn claim(spec: &Spec) -> Result<Option<CalibrationOutput>> {
        let Some(path) = &spec.save else { return Ok(None) };
        spec.check()?;
        Ok(Some(CalibrationOutput { name: file_name(path), stage: Stage::new(path, presence::is_file)? }))
    }

    /// Puts what was seen in place. Fails where no engine was fitted.
    pub fn put(self, calibrator: &Calibrator, model: &Model) -> Result<()> {
        if !calibrator.used() {
            return Err(Error::bad_input("nothing was seen that could be saved: no engine is in 8 bits"));
        }
        save(&self.stage.path(&self.name), &weights_digest(model)?, &calibrator.found.borrow())?;
        self.stage.commit_files(&[&self.name])
    }
}

/// What tells the weights of a model from those of another: a digest of all files that they come from.
pub(super) fn weights_digest(model: &Model) -> Result<String> {
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
