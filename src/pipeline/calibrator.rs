//! Looks into a model before it is quantized, once for all engines that are made of it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::{Model, Observer};
use crate::bundle::{self, CalibrationEntry};
use crate::calibrate::sample::Draw;
use crate::calibrate::{Calibration, Estimator, Plan, Saved, Spec, observe, save};
use crate::checkpoint::json::file_name;
use crate::digest;
use crate::error::{Error, Result};
use crate::ir::Graph;
use crate::output::Stage;
use crate::runtime::Named;
use crate::verify::Verified;

/// Texts of the task, and what was seen of the model on them.
pub struct Calibrator<'a> {
    source: Source,
    name: String,
    observer: &'a dyn Observer,
    origin: Origin,
    /// By the text of the graph that was run: targets whose graphs are alike share what was seen.
    found: RefCell<Vec<(String, Calibration)>>,
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
        let origin = Origin::default();
        Calibrator { source, name: name.to_owned(), observer, origin, found: RefCell::default() }
    }

    pub(super) fn with_origin(self, origin: Origin) -> Calibrator<'a> {
        Calibrator { origin, ..self }
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
            Source::Inputs(inputs, scratch) => self.look(graph, inputs, scratch)?,
        };
        self.found.borrow_mut().push((key, found.clone()));
        Ok(found)
    }

    fn look(&self, graph: &Verified<Graph>, inputs: &[Named], scratch: &Path) -> Result<Calibration> {
        if self.origin.built_in && self.found.borrow().is_empty() {
            self.observer.warn(&format!(
                "no texts of the task are given: 8-bit layers are fitted to {} built-in ones, and answers hold less well; \
                 give some with --calibration FILE",
                inputs.len()
            ));
        }
        self.observer.begin_texts("calibrating", inputs.len() as u64);
        let start = std::time::Instant::now();
        let progress = || self.observer.advance(1);
        let plan = Plan { graph, inputs, scratch, progress: &progress };
        let found = observe(&plan).map_err(|e| e.at(self.name.clone()))?;
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

    /// How ranges are found that are fixed in the engine.
    pub fn estimator(&self) -> Estimator {
        self.origin.estimator
    }

    /// Whether any engine was fitted.
    pub fn used(&self) -> bool {
        !self.found.borrow().is_empty()
    }

    /// What a manifest says of it; nothing, where no engine was fitted.
    pub fn entry(&self) -> Result<Option<CalibrationEntry>> {
        let found = self.found.borrow();
        let Some((_, seen)) = found.first() else { return Ok(None) };
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
pub struct Keepsake {
    name: String,
    stage: Stage,
}

impl Keepsake {
    /// The place that a recipe names, if it does.
    pub fn claim(spec: &Spec) -> Result<Option<Keepsake>> {
        let Some(path) = &spec.save else { return Ok(None) };
        spec.check()?;
        Ok(Some(Keepsake { name: file_name(path), stage: Stage::new(path, Path::is_file)? }))
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
