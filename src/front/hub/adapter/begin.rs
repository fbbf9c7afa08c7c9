//! The beginning of every merge of an adapter of PEFT's.

use super::file::Adapter;
use super::tied;
use super::work::Work;
use crate::error::Result;

/// Checks that an adapter and the model belong together, and replaces the tensors that it saved whole.
pub(super) fn begin(work: &mut Work, adapter: &Adapter) -> Result<()> {
    tied::part(work, adapter)?;
    work.admit(adapter, &tied::following(work, adapter))?;
    work.replace(adapter)?;
    work.merged.follows = tied::check(work, adapter)?;
    work.touch(adapter);
    Ok(())
}
