//! Tensors on their way into and out of engines.

use std::fmt;

use half::f16;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};
use crate::ports::PortKind;

/// The types of elements that models take and give here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementType {
    /// Token ids, masks and positions.
    I64,
    /// The same in graphs of other exporters.
    I32,
    /// Floats of 32 bits.
    F32,
    /// Floats of 16 bits.
    F16,
    /// Switches and masks.
    Bool,
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ElementType::I64 => "i64",
            ElementType::I32 => "i32",
            ElementType::F32 => "f32",
            ElementType::F16 => "f16",
            ElementType::Bool => "bool",
        })
    }
}

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Token ids, masks and positions.
    I64(Vec<i64>),
    /// The same in graphs of other exporters.
    I32(Vec<i32>),
    /// Everything else.
    F32(Vec<f32>),
    /// The same in half precision.
    F16(Vec<f16>),
    /// Switches and masks.
    Bool(Vec<bool>),
}

impl Elements {
    /// Their type.
    pub fn element_type(&self) -> ElementType {
        self.view().element_type()
    }

    /// The same, borrowed.
    pub fn view(&self) -> ElementsView<'_> {
        match self {
            Elements::I64(values) => ElementsView::I64(values),
            Elements::I32(values) => ElementsView::I32(values),
            Elements::F32(values) => ElementsView::F32(values),
            Elements::F16(values) => ElementsView::F16(values),
            Elements::Bool(values) => ElementsView::Bool(values),
        }
    }

    /// Zeros of that type, as many as a shape has. Fails where the machine has no memory for them.
    pub fn zeros(of: ElementType, shape: &[usize]) -> Result<Elements> {
        Ok(match of {
            ElementType::I64 => Elements::I64(zeros(shape)?),
            ElementType::I32 => Elements::I32(zeros(shape)?),
            ElementType::F32 => Elements::F32(zeros(shape)?),
            ElementType::F16 => Elements::F16(zeros(shape)?),
            ElementType::Bool => Elements::Bool(zeros(shape)?),
        })
    }

    /// Integers in the type that an input takes. Fails where it takes none, or a narrower one that a number does not fit;
    /// the error names the input.
    pub fn integers(values: Vec<i64>, port: &Port) -> Result<Elements> {
        let misfit = |value: &i64| {
            let (name, of) = (printable(&port.name), printable(&port.type_name));
            Error::unsupported(format!("the graph's input `{name}` is of {of}, which {value} does not fit"))
        };
        match port.element {
            Some(ElementType::I64) => Ok(Elements::I64(values)),
            Some(ElementType::I32) => {
                let narrow = |value: &i64| i32::try_from(*value).map_err(|_| misfit(value));
                values.iter().map(narrow).collect::<Result<_>>().map(Elements::I32)
            }
            Some(ElementType::Bool) => match values.iter().find(|value| !(0..=1).contains(*value)) {
                Some(other) => Err(misfit(other)),
                None => Ok(Elements::Bool(values.into_iter().map(|value| value == 1).collect())),
            },
            _ => Err(Error::unsupported(format!(
                "the graph's input `{}` is of {}; integers are what it would be given",
                printable(&port.name),
                printable(&port.type_name)
            ))),
        }
    }
}

/// As many as a shape has.
fn zeros<T: Clone + Default>(shape: &[usize]) -> Result<Vec<T>> {
    let too_many = || Error::bad_input(format!("there is no memory for a tensor of the shape {shape:?}"));
    let count = shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size)).ok_or_else(too_many)?;
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| too_many())?;
    values.resize(count, T::default());
    Ok(values)
}

/// The elements of a tensor, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ElementsView<'a> {
    /// Integers of 64 bits.
    I64(&'a [i64]),
    /// Integers of 32 bits.
    I32(&'a [i32]),
    /// Floats of 32 bits.
    F32(&'a [f32]),
    /// Floats of 16 bits.
    F16(&'a [f16]),
    /// Truth values.
    Bool(&'a [bool]),
}

impl ElementsView<'_> {
    /// Their type.
    pub fn element_type(&self) -> ElementType {
        match self {
            ElementsView::I64(_) => ElementType::I64,
            ElementsView::I32(_) => ElementType::I32,
            ElementsView::F32(_) => ElementType::F32,
            ElementsView::F16(_) => ElementType::F16,
            ElementsView::Bool(_) => ElementType::Bool,
        }
    }

    /// The same, owned.
    pub fn to_elements(&self) -> Elements {
        match self {
            ElementsView::I64(values) => Elements::I64(values.to_vec()),
            ElementsView::I32(values) => Elements::I32(values.to_vec()),
            ElementsView::F32(values) => Elements::F32(values.to_vec()),
            ElementsView::F16(values) => Elements::F16(values.to_vec()),
            ElementsView::Bool(values) => Elements::Bool(values.to_vec()),
        }
    }
}

/// A tensor on its way into or out of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// As many as the sizes' product.
    pub elements: Elements,
}

impl Tensor {
    /// The rows of floats along the last dimension; `None` for integers and scalars.
    pub fn rows(&self) -> Option<impl Iterator<Item = &[f32]>> {
        match (self.shape.last(), &self.elements) {
            (Some(columns), Elements::F32(values)) if *columns > 0 => Some(values.chunks(*columns)),
            _ => None,
        }
    }

    /// The same, borrowed.
    pub fn view(&self) -> View<'_> {
        View { shape: self.shape.clone(), elements: self.elements.view() }
    }
}

/// A tensor whose elements are elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct View<'a> {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// As many as the sizes' product.
    pub elements: ElementsView<'a>,
}

impl View<'_> {
    /// The same, owned.
    pub fn to_tensor(&self) -> Tensor {
        Tensor { shape: self.shape.clone(), elements: self.elements.to_elements() }
    }

    /// Those parts along the outermost axis, in that order. `None` where there is no such part.
    pub fn select(&self, parts: &[usize]) -> Option<Tensor> {
        let (count, rest) = self.shape.split_first()?;
        let size = rest.iter().try_fold(1_usize, |all, size| all.checked_mul(*size))?;
        if parts.iter().any(|part| part >= count) {
            return None;
        }
        let elements = match self.elements {
            ElementsView::I64(values) => Elements::I64(gather(values, size, parts)?),
            ElementsView::I32(values) => Elements::I32(gather(values, size, parts)?),
            ElementsView::F32(values) => Elements::F32(gather(values, size, parts)?),
            ElementsView::F16(values) => Elements::F16(gather(values, size, parts)?),
            ElementsView::Bool(values) => Elements::Bool(gather(values, size, parts)?),
        };
        let shape = std::iter::once(parts.len()).chain(rest.iter().copied()).collect();
        Some(Tensor { shape, elements })
    }
}

fn gather<T: Copy>(values: &[T], size: usize, parts: &[usize]) -> Option<Vec<T>> {
    let mut gathered = Vec::with_capacity(parts.len().checked_mul(size)?);
    for part in parts {
        let start = part.checked_mul(size)?;
        gathered.extend_from_slice(values.get(start..start.checked_add(size)?)?);
    }
    Some(gathered)
}

/// Tensors by the names of the engine's inputs or outputs, in the engine's order.
pub type Named = Vec<(String, Tensor)>;

/// The tensor of that kind.
pub fn port(named: &Named, kind: PortKind) -> Option<&Tensor> {
    named.iter().find(|(name, _)| kind.is(name)).map(|(_, tensor)| tensor)
}

/// An input or output as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The type of its elements; none where kilnc neither gives nor reads such.
    pub element: Option<ElementType>,
    /// The same for messages, whatever it is.
    pub type_name: String,
    /// Its sizes, outermost first; none for those that a run decides.
    pub shape: Vec<Option<usize>>,
}

impl Port {
    /// What it means.
    pub fn kind(&self) -> Option<PortKind> {
        PortKind::of(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_selected_in_the_order_that_is_asked_for() {
        let tensor = Tensor { shape: vec![3, 2], elements: Elements::I64(vec![0, 1, 2, 3, 4, 5]) };
        let selected = tensor.view().select(&[2, 0, 2]).unwrap();
        assert_eq!(selected, Tensor { shape: vec![3, 2], elements: Elements::I64(vec![4, 5, 0, 1, 4, 5]) });
        assert_eq!(tensor.view().select(&[3]), None);
        let empty =
            Tensor { shape: vec![2, 4, 0, 8], elements: Elements::zeros(ElementType::F16, &[2, 4, 0, 8]).unwrap() };
        assert_eq!(empty.view().select(&[1]).unwrap().shape, [1, 4, 0, 8]);
    }

    #[test]
    fn integers_take_the_type_of_their_input() {
        let port = |element: Option<ElementType>| {
            let type_name = element.map_or("u8".to_owned(), |element| element.to_string());
            Port { name: "position_ids".to_owned(), element, type_name, shape: vec![] }
        };
        let made = |element, values| Elements::integers(values, &port(element));
        assert_eq!(made(Some(ElementType::I32), vec![7]).unwrap(), Elements::I32(vec![7]));
        assert_eq!(made(Some(ElementType::Bool), vec![1, 0]).unwrap(), Elements::Bool(vec![true, false]));
        let said = |element, values| made(element, values).unwrap_err().to_string();
        assert_eq!(
            said(Some(ElementType::I32), vec![1 << 31]),
            "the graph's input `position_ids` is of i32, which 2147483648 does not fit"
        );
        assert_eq!(
            said(Some(ElementType::F32), vec![1]),
            "the graph's input `position_ids` is of f32; integers are what it would be given"
        );
        assert!(said(None, vec![1]).contains("is of u8; integers"));
    }
}
