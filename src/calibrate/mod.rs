//! Calibration: statistics of the values inside a model on texts of its task.
//!
//! [`collect`] runs the model over texts, one at a time, and collects of each requested value the statistics that the
//! passes need: the range of every channel, the second moments of the channels, a histogram. Memory does not grow with
//! the number of texts. [`save`] keeps it for another run. [`sample`] chooses texts from a larger corpus, [`npz`] reads
//! inputs that were tokenized elsewhere.

mod collect;
mod histogram;
mod moments;
pub mod npz;
mod rounding;
pub mod sample;
mod saved;
mod spec;
mod statistics;

pub use collect::{Collection, collect, collect_outputs};
pub use histogram::{Estimator, Histogram};
pub use rounding::{Rounded, round};
pub use saved::{EXTENSION, Saved, save};
pub use spec::{Kind, Spec};
pub use statistics::{Activations, Calibration, Extremes, Ranges};
