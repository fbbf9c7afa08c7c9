//! The substitute for plans in a kilnc without the binding.

use std::path::Path;

use super::device::Gpu;
use super::engine::{Available, Runtime};
use super::session::Executor;
use crate::error::{Error, Result};

pub(super) fn open(_path: &Path, _gpu: u32) -> Result<Box<dyn Executor>> {
    missing()
}

pub(super) fn probe() -> Result<Available> {
    missing()
}

pub(super) fn gpu(_number: u32) -> Result<Gpu> {
    missing()
}

fn missing<T>() -> Result<T> {
    Runtime::TensorRtRtx.check_built_in().and(Err(Error::bug("plans are built in")))
}
