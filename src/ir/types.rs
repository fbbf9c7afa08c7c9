//! Element types, dimensions and shapes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::size::{Name, Size, SizeError};

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl DType {
    /// Every element type, in the order of their declaration.
    pub const ALL: [DType; 10] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U8,
        DType::Bool,
    ];

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether the elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// The name in the text form: `f32`, `i64`, `bool`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }

    /// The type with that name in the text form.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One dimension: known now, or known when the engine runs. Equal sizes have one form: see [`Size`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// So many elements.
    Fixed(usize),
    /// As many as the run-time size of that name, e.g. `batch_size`; one that starts with `?` is made by a node.
    Symbol(Arc<str>),
    /// A size that is computed from run-time sizes, e.g. `past_sequence_length + sequence_length`.
    Computed(Size),
}

impl Dim {
    /// A run-time size that a node makes.
    pub fn fresh(name: &str) -> Dim {
        Dim::Symbol(format!("{FRESH}{name}").into())
    }

    /// Whether it is a run-time size that a node makes.
    pub fn is_fresh(&self) -> bool {
        matches!(self, Dim::Symbol(name) if name.starts_with(FRESH))
    }

    /// The size, when it is known now.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(*n),
            Dim::Symbol(_) | Dim::Computed(_) => None,
        }
    }

    /// The run-time sizes that it depends on.
    pub fn symbols(&self) -> BTreeSet<Arc<str>> {
        let mut symbols = BTreeSet::new();
        match self {
            Dim::Fixed(_) => {}
            Dim::Symbol(name) => {
                symbols.insert(name.clone());
            }
            Dim::Computed(size) => size.symbols(&mut symbols),
        }
        symbols
    }

    /// The size in a run in which symbols are these. None where one is unknown or the size is negative.
    pub fn value(&self, of: &dyn Fn(&str) -> Option<usize>) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(*n),
            Dim::Symbol(name) => of(name),
            Dim::Computed(size) => usize::try_from(size.value(of)?).ok(),
        }
    }

    /// `self + other`
    pub fn plus(&self, other: impl Into<Dim>) -> Result<Dim, SizeError> {
        self.size()?.plus(&other.into().size()?)?.try_into()
    }

    /// `self − other`
    pub fn minus(&self, other: impl Into<Dim>) -> Result<Dim, SizeError> {
        self.size()?.minus(&other.into().size()?)?.try_into()
    }

    /// `self · other`
    pub fn times(&self, other: impl Into<Dim>) -> Result<Dim, SizeError> {
        self.size()?.times(&other.into().size()?)?.try_into()
    }

    /// `⌊self / by⌋`
    pub fn floor_div(&self, by: usize) -> Result<Dim, SizeError> {
        self.size()?.floor_div(i64::try_from(by).map_err(|_| SizeError::Overflow)?)?.try_into()
    }

    /// `⌈self / by⌉`
    pub fn ceil_div(&self, by: usize) -> Result<Dim, SizeError> {
        self.size()?.ceil_div(i64::try_from(by).map_err(|_| SizeError::Overflow)?)?.try_into()
    }

    /// The larger of two.
    pub fn max(&self, other: impl Into<Dim>) -> Result<Dim, SizeError> {
        Size::max(&[self.size()?, other.into().size()?])?.try_into()
    }

    /// The smaller of two.
    pub fn min(&self, other: impl Into<Dim>) -> Result<Dim, SizeError> {
        let (a, b) = (self.size()?, other.into().size()?);
        a.plus(&b)?.minus(&Size::max(&[a, b])?)?.try_into()
    }

    /// The number of elements of a shape.
    pub fn product<'a>(shape: impl IntoIterator<Item = &'a Dim>) -> Result<Dim, SizeError> {
        shape.into_iter().try_fold(Dim::Fixed(1), |product, dim| product.times(dim))
    }

    /// `self / by` where that is a product and goes into every term of `self`.
    pub fn quotient(&self, by: &Dim) -> Option<Dim> {
        self.size().ok()?.quotient(&by.size().ok()?)?.try_into().ok()
    }

    fn size(&self) -> Result<Size, SizeError> {
        Ok(match self {
            Dim::Fixed(n) => Size::constant(i64::try_from(*n).map_err(|_| SizeError::Overflow)?),
            Dim::Symbol(name) => Size::symbol(name.clone()),
            Dim::Computed(size) => size.clone(),
        })
    }
}

/// The prefix of the name of a run-time size that a node makes.
const FRESH: char = '?';

impl TryFrom<Size> for Dim {
    type Error = SizeError;

    fn try_from(size: Size) -> Result<Dim, SizeError> {
        match (size.known(), size.lone_symbol()) {
            (Some(n), _) => usize::try_from(n).map(Dim::Fixed).map_err(|_| SizeError::Negative),
            (_, Some(name)) => Ok(Dim::Symbol(name.clone())),
            _ => Ok(Dim::Computed(size)),
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Fixed(n)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Dim {
        Dim::Symbol(name.into())
    }
}

impl From<&Dim> for Dim {
    fn from(dim: &Dim) -> Dim {
        dim.clone()
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(name) => write!(f, "{}", Name(name)),
            Dim::Computed(size) => write!(f, "{size}"),
        }
    }
}

/// Element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> TensorType {
        TensorType { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The sizes, when all of them are known now.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(Dim::fixed).collect()
    }

    /// The same shape with another element type.
    pub fn with_dtype(&self, dtype: DType) -> TensorType {
        TensorType { dtype, shape: self.shape.clone() }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, dim) in self.shape.iter().enumerate() {
            write!(f, "{}{dim}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}
