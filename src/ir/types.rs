//! Element types, dimensions and shapes.

use std::fmt;
use std::sync::Arc;

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

/// One dimension: known now, or a named size that is known when the engine runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// So many elements.
    Fixed(usize),
    /// As many as the run-time size of that name, e.g. `batch_size`.
    Symbol(Arc<str>),
    /// `times · symbol + plus`, as [`Dim::affine`] makes it.
    Affine {
        /// What the run-time size is multiplied by.
        times: usize,
        /// The run-time size.
        symbol: Arc<str>,
        /// What is added.
        plus: i64,
    },
}

impl Dim {
    /// The size, when it is known now.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(*n),
            Dim::Symbol(_) | Dim::Affine { .. } => None,
        }
    }

    /// The run-time size that it depends on, if it does.
    pub fn symbol(&self) -> Option<&Arc<str>> {
        match self {
            Dim::Fixed(_) => None,
            Dim::Symbol(symbol) | Dim::Affine { symbol, .. } => Some(symbol),
        }
    }

    /// `times · self + plus`
    pub fn affine(&self, times: usize, plus: i64) -> Dim {
        let scaled = |n: i64| n.saturating_mul(times as i64).saturating_add(plus);
        let (before, constant) = match self {
            Dim::Fixed(n) => return Dim::Fixed(usize::try_from(scaled(*n as i64)).unwrap_or(0)),
            Dim::Symbol(_) => (1, 0),
            Dim::Affine { times, plus, .. } => (*times, *plus),
        };
        match (self.symbol(), before.saturating_mul(times), scaled(constant)) {
            (Some(symbol), 1, 0) => Dim::Symbol(symbol.clone()),
            (Some(symbol), times @ 1.., plus) => Dim::Affine { times, symbol: symbol.clone(), plus },
            (_, _, plus) => Dim::Fixed(usize::try_from(plus).unwrap_or(0)),
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

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Affine { times, symbol, plus: 0 } => write!(f, "{times}*{symbol}"),
            Dim::Affine { times, symbol, plus } => {
                let sign = if *plus < 0 { '-' } else { '+' };
                write!(f, "{times}*{symbol} {sign} {}", plus.unsigned_abs())
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_of_a_size_are_sizes_in_one_form() {
        let s = Dim::from("s");
        assert_eq!(s.affine(2, -1).to_string(), "2*s - 1");
        assert_eq!(s.affine(2, 0).affine(3, 4).to_string(), "6*s + 4");
        assert_eq!(s.affine(1, 1).affine(1, -1), s);
        assert_eq!(s.affine(0, 3), Dim::Fixed(3));
        assert_eq!(Dim::Fixed(5).affine(2, -1), Dim::Fixed(9));
        assert_eq!((s.affine(2, 0).fixed(), s.affine(2, 0).symbol()), (None, s.symbol()));
    }
}
