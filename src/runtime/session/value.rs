//! Values that stay where a runtime has them.

use ::ort::value::DynValue;
use tract_onnx::prelude::TValue;

use super::super::{Tensor, View, ort, tract};
use crate::error::{Error, Result};

/// A tensor in a runtime's own memory, or in ours for runtimes that have none.
pub enum Value {
    /// In our memory.
    Host(Tensor),
    /// ONNX Runtime's.
    Ort(DynValue),
    /// tract's.
    Tract(TValue),
}

/// What a model is given.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// By the caller.
    Given(&'a Tensor),
    /// Out of a run before.
    Held(&'a Value),
}

impl Value {
    /// Its elements, where they are.
    pub fn view(&self) -> Result<View<'_>> {
        match self {
            Value::Host(tensor) => Ok(tensor.view()),
            Value::Ort(value) => ort::view(value),
            Value::Tract(value) => tract::view(value),
        }
    }

    /// The same, copied into our memory.
    pub fn into_tensor(self) -> Result<Tensor> {
        match self {
            Value::Host(tensor) => Ok(tensor),
            other => Ok(other.view()?.to_tensor()),
        }
    }

    /// Those parts along the outermost axis, in that order.
    pub(super) fn select(&self, parts: &[usize]) -> Result<Value> {
        let selected = self.view()?.select(parts);
        selected.map(Value::Host).ok_or_else(|| Error::bug("a row is asked for that the state does not have"))
    }
}

impl<'a> Input<'a> {
    /// The tensor, where it is in our memory.
    pub fn host(self) -> Option<&'a Tensor> {
        match self {
            Input::Given(tensor) | Input::Held(Value::Host(tensor)) => Some(tensor),
            Input::Held(_) => None,
        }
    }
}
