//! What pruning is asked for.

use std::path::Path;

use super::spec::Spec;
use crate::ir::Graph;
use crate::observer::Observer;
use crate::runtime::Named;
use crate::verify::Verified;

/// A request: the cut, and how it is measured.
pub struct Request<'a> {
    /// The model, in composite operations.
    pub graph: &'a Verified<Graph>,
    /// Texts of its task as the engine's inputs, each alone.
    pub inputs: &'a [Named],
    /// A folder for the time of the work.
    pub scratch: &'a Path,
    /// Hears of progress.
    pub observer: &'a dyn Observer,
    /// What goes.
    pub spec: &'a Spec,
}
