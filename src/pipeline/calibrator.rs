//! Looks into a model before it is quantized, once for all engines that are made of it.

use std::cell::RefCell;
use std::path::PathBuf;

use super::Observer;
use crate::calibrate::{Calibration, Plan, observe};
use crate::error::Result;
use crate::ir::Graph;
use crate::runtime::Named;
use crate::verify::Verified;

/// Texts of the task, and what was seen of the model on them.
pub struct Calibrator<'a> {
    inputs: Vec<Named>,
    name: String,
    scratch: PathBuf,
    observer: &'a dyn Observer,
    /// By the text of the graph that was run: targets whose graphs are alike share what was seen.
    found: RefCell<Vec<(String, Calibration)>>,
}

impl<'a> Calibrator<'a> {
    /// `inputs` are the texts of the file `name` as the engine takes them, each alone; `scratch` is a folder for the
    /// time of the build.
    pub fn new(name: &str, inputs: Vec<Named>, scratch: PathBuf, observer: &'a dyn Observer) -> Calibrator<'a> {
        Calibrator { inputs, name: name.to_owned(), scratch, observer, found: RefCell::default() }
    }

    /// What is seen of `graph` on the texts.
    pub fn on(&self, graph: &Verified<Graph>) -> Result<Calibration> {
        let key = graph.to_string();
        if let Some((_, found)) = self.found.borrow().iter().find(|(text, _)| *text == key) {
            return Ok(found.clone());
        }
        self.observer.begin("calibrating", Some(self.inputs.len() as u64));
        let start = std::time::Instant::now();
        let progress = || self.observer.advance(1);
        let plan = Plan { graph, inputs: &self.inputs, scratch: &self.scratch, progress: &progress };
        let found = observe(&plan).map_err(|e| e.at(self.name.clone()))?;
        let rate = found.texts as f64 / start.elapsed().as_secs_f64();
        self.observer.done(&format!("{} texts of {}, {rate:.0} a second", found.texts, self.name));
        self.found.borrow_mut().push((key, found.clone()));
        Ok(found)
    }
}
