//! Runtime libraries inside of a bundle: ONNX Runtime, alone or with OpenVINO, for the requested platforms.
//!
//! They come from PyPI's wheels on disk, never from the net, and go to `runtimes/<platform>/` in the layout of a folder
//! of runtimes, so that they are found there as they are elsewhere. They are programs: nothing runs them until the user
//! trusts the bundle ([`super::Bundle::trust`]).

mod bill;
mod entries;
mod find;
mod header;
mod parts;
mod record;
mod take;
#[cfg(test)]
mod tests;
mod trust;
mod wheel;

use entries::folder;

pub(super) use bill::{components, references};
pub use entries::{BundledRuntimes, LibraryEntry, RUNTIMES};
pub use find::{Found, command, find};
pub use parts::{Package, RuntimePlan, packages};
pub use take::take;
