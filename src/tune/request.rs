//! What is tuned, and what became of a layer.

use serde::Serialize;

use crate::build::{Calibrator, Model, Observer};
use crate::eval::Example;
use crate::ir::Role;
use crate::runtime::{Classes, TextEncoder};
use crate::target::Target;

/// A request: the model, the target and the bounds.
pub struct Request<'a> {
    /// The model.
    pub model: &'a Model,
    /// Where it may run.
    pub targets: &'a [Target],
    /// What 8-bit layers are calibrated on.
    pub calibrator: &'a Calibrator<'a>,
    /// Turns texts into inputs.
    pub encoder: &'a TextEncoder,
    /// The texts on which sensitivity is measured.
    pub texts: &'a [Example],
    /// A classifier's classes. Where texts have no labels, the drop is the share of changed predictions.
    pub classes: &'a Classes,
    /// Whether weights of 8-bit layers use half of the integers; by default they do on targets whose sums
    /// saturate.
    pub reduce_range: Option<bool>,
    /// The largest drop.
    pub max_drop: f64,
    /// Batch and length for which time counts.
    pub shape: [usize; 2],
    /// How often each engine is started and timed.
    pub rounds: usize,
    /// A folder for engines while they are measured.
    pub scratch: &'a std::path::Path,
    /// Hears of progress.
    pub observer: &'a dyn Observer,
}

/// The sensitivity and the gain of one layer in 8 bits.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// The layer, e.g. `ffn-out/3`.
    pub name: String,
    /// Root mean square of the change of the outputs when it alone is in 8 bits.
    pub sensitivity: f64,
    /// Milliseconds in full precision.
    pub ms_full: f64,
    /// Milliseconds in 8 bits.
    pub ms_int8: f64,
    /// `int8` or `fp32`.
    pub chosen: String,
    /// Why.
    pub why: String,
    #[serde(skip)]
    pub(super) role: Option<Role>,
}
