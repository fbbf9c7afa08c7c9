//! Values that stay where a runtime has them.

use ::ort::value::{DynValue, TensorElementType, ValueType};
use tract_onnx::prelude::{Datum, DatumType, TValue};

use crate::error::{Error, Result};
use crate::runtime::{ElementType, ElementsView, Tensor, View};

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
            Value::Ort(value) => ort_view(value),
            Value::Tract(value) => tract_view(value),
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

/// The type of elements of ONNX Runtime's.
pub fn of_ort(of: TensorElementType) -> Option<ElementType> {
    match of {
        TensorElementType::Int64 => Some(ElementType::I64),
        TensorElementType::Int32 => Some(ElementType::I32),
        TensorElementType::Float32 => Some(ElementType::F32),
        TensorElementType::Float16 => Some(ElementType::F16),
        TensorElementType::Bool => Some(ElementType::Bool),
        _ => None,
    }
}

/// The elements of a value of ONNX Runtime's, where it has them.
fn ort_view(value: &DynValue) -> Result<View<'_>> {
    let refused = |e: ::ort::Error| Error::of_library("ONNX Runtime", &e.to_string(), e);
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(Error::unsupported(format!("the model gives {:?}, which is no tensor", value.dtype())));
    };
    let elements = match of_ort(*ty) {
        Some(ElementType::I64) => value.try_extract_tensor().map(|(_, values)| ElementsView::I64(values)),
        Some(ElementType::I32) => value.try_extract_tensor().map(|(_, values)| ElementsView::I32(values)),
        Some(ElementType::F32) => value.try_extract_tensor().map(|(_, values)| ElementsView::F32(values)),
        Some(ElementType::F16) => value.try_extract_tensor().map(|(_, values)| ElementsView::F16(values)),
        Some(ElementType::Bool) => value.try_extract_tensor().map(|(_, values)| ElementsView::Bool(values)),
        None => return Err(Error::unsupported(format!("the model gives elements of {ty}"))),
    };
    let shape = shape.iter().map(|n| usize::try_from(*n).unwrap_or_default()).collect();
    Ok(View { shape, elements: elements.map_err(refused)? })
}

/// The type of elements of tract's.
pub fn of_tract(of: DatumType) -> Option<ElementType> {
    match of {
        DatumType::I64 => Some(ElementType::I64),
        DatumType::I32 => Some(ElementType::I32),
        DatumType::F32 => Some(ElementType::F32),
        DatumType::F16 => Some(ElementType::F16),
        DatumType::Bool => Some(ElementType::Bool),
        _ => None,
    }
}

/// The elements of a value of tract's, where it has them.
fn tract_view(value: &TValue) -> Result<View<'_>> {
    fn plain<T: Datum + Copy>(value: &TValue) -> Result<&[T]> {
        value
            .try_as_plain_ram()
            .and_then(|plain| plain.as_slice::<T>())
            .map_err(|e| Error::of_library("tract", &format!("{e:#}"), e))
    }
    let elements = match of_tract(value.datum_type()) {
        Some(ElementType::I64) => ElementsView::I64(plain(value)?),
        Some(ElementType::I32) => ElementsView::I32(plain(value)?),
        Some(ElementType::F32) => ElementsView::F32(plain(value)?),
        Some(ElementType::F16) => ElementsView::F16(plain(value)?),
        Some(ElementType::Bool) => ElementsView::Bool(plain(value)?),
        None => return Err(Error::unsupported(format!("the model gives elements of {:?}", value.datum_type()))),
    };
    Ok(View { shape: value.shape().to_vec(), elements })
}
