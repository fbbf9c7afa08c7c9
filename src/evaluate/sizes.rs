//! The sizes that are known once a graph runs.

use std::collections::HashMap;
use std::sync::Arc;

use super::array::Array;
use crate::error::{Error, Result};
use crate::ir::{Dim, TensorType};

/// The named sizes of a graph in one run.
#[derive(Default)]
pub(super) struct Sizes(HashMap<Arc<str>, usize>);

impl Sizes {
    /// Takes named sizes from an input.
    pub fn bind(&mut self, ty: &TensorType, array: &Array) {
        for (dim, size) in ty.shape.iter().zip(array.shape()) {
            if let Dim::Symbol(symbol) = dim {
                self.0.entry(symbol.clone()).or_insert(*size);
            }
        }
    }

    /// Takes the sizes that a node makes from its output.
    pub fn bind_fresh(&mut self, ty: &TensorType, array: &Array) {
        for (dim, size) in ty.shape.iter().zip(array.shape()).filter(|(dim, _)| dim.is_fresh()) {
            if let Dim::Symbol(symbol) = dim {
                self.0.entry(symbol.clone()).or_insert(*size);
            }
        }
    }

    /// Fails where an array is not of that type.
    pub fn check(&self, ty: &TensorType, array: &Array) -> Result<()> {
        let shape: Option<Vec<usize>> =
            ty.shape.iter().map(|dim| dim.value(&|symbol| self.0.get(symbol).copied())).collect();
        if array.holds(ty.dtype) && shape.as_deref() == Some(array.shape()) {
            return Ok(());
        }
        let shape = shape.map(|shape| format!(" {shape:?}")).unwrap_or_default();
        Err(Error::bad_input(format!("has the shape {:?}, not that of {ty}{shape}", array.shape())))
    }
}
