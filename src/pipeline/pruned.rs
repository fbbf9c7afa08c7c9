//! Cuts a model down before engines are made of it.

use std::path::Path;

use super::{Calibrator, Model, Observer};
use crate::error::{Error, Result};
use crate::prune::{self, Report, Request, Spec};

/// Cuts what `spec` says out of the model's graph; the trained one stays beside it, to be held against. `scratch` is a
/// folder for the time of the build.
pub fn prune(
    model: &mut Model,
    spec: &Spec,
    calibrator: &Calibrator,
    scratch: &Path,
    observer: &dyn Observer,
) -> Result<Report> {
    let inputs = calibrator.inputs().ok_or_else(|| {
        Error::bad_input("pruning runs the model on texts, and there is only what was seen of them")
            .hint("calibrate with texts, or with inputs that were tokenized elsewhere")
    })?;
    let request = Request { graph: &model.graph, spec, inputs, scratch, observer };
    let (graph, report) = prune::prune(&request)?;
    model.trained = Some(std::mem::replace(&mut model.graph, graph));
    Ok(report)
}
