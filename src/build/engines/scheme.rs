//! How an engine is made of a model.

use crate::build::calibration::Calibrator;
use crate::ir::Role;
use crate::ir::weight::Int8Range;
use crate::precision::Precision;
use crate::target::Target;

/// How an engine is made of a model.
#[derive(Clone, Copy)]
pub struct Scheme<'a> {
    /// Where it is to run.
    pub target: &'a Target,
    /// Its number format.
    pub precision: Precision,
    /// Layers and tables that stay in full precision.
    pub keep: &'a [Role],
    /// Texts that 8-bit layers are calibrated on. Without them weights are rounded to the nearest, and activations are
    /// left as they are.
    pub calibrator: Option<&'a Calibrator<'a>>,
    /// Whether channels have to stay where they are, because their zeros make a pattern.
    pub keep_order: bool,
    /// The integers that weights of 8-bit layers are rounded to.
    pub range: Int8Range,
}

impl<'a> Scheme<'a> {
    /// A number format for a target, the same for all layers and calibrated on no texts. Weights are of a range with which
    /// no sum saturates on any processor.
    pub fn new(target: &'a Target, precision: Precision) -> Scheme<'a> {
        let range = Int8Range::reduced(target.saturates(precision));
        Scheme { target, precision, keep: &[], calibrator: None, keep_order: false, range }
    }
}
