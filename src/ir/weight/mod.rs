//! Weights as lazy expressions over mapped files.
//!
//! Building, merging and quantizing a model only builds these expressions. Nothing is computed before emission, which
//! evaluates ranges of rows ([`Weight::evaluate_rows`]), so peak memory follows neither the model nor its largest tensor.
//! The constructors check shapes and keep expressions in a normal form: a transposition is outside a
//! concatenation, and two transpositions cancel.

mod blocks;
mod combine;
mod computed;
mod elements;
mod evaluate;
mod forms;
mod linear;
mod make;
mod packed;
mod quantized;
mod region;
mod svd;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::types::{DType, TensorType};
use crate::error::{Error, Result, printable};

pub use computed::Computed;
pub use elements::Evaluated;
pub use forms::{BlockPart, Blocks, Int8Range, Majority};
pub use packed::{Affine, Codebook, Element, GgmlType, Layout, Microscaled, Packing, Scaled};
use svd::Factors;

/// A constant tensor of known shape, computed when it is needed. Cloning is cheap.
#[derive(Clone)]
pub struct Weight(Arc<Inner>);

struct Inner {
    dtype: DType,
    shape: Vec<usize>,
    expr: Expr,
}

/// How the elements of a [`Weight`] come about.
pub enum Expr {
    /// A tensor of a file. Without data it has a type only, as in a graph that was read from its text form.
    Source {
        /// The tensor's name in its file.
        name: String,
        /// Its elements, little-endian.
        data: Option<Blob>,
    },
    /// Elements that kilnc made itself, little-endian.
    Literal(Vec<u8>),
    /// The floats of a tensor of a quantized file.
    Packed {
        /// How the parts are read.
        packing: Packing,
        /// Values, and what the packing has besides.
        parts: Vec<Weight>,
    },
    /// The last two dimensions swapped; the operand has rank 2.
    Transpose(Weight),
    /// The same numbers in another element type.
    Cast(Weight),
    /// The parts side by side along `axis`.
    Concat {
        /// The dimension along which the parts follow each other.
        axis: usize,
        /// The joined weights, in order.
        parts: Vec<Weight>,
    },
    /// `base + scale · (b · a)`, the merge of a low-rank adapter (arXiv 2106.09685).
    Lora {
        /// `[n, k]`
        base: Weight,
        /// `[r, k]`
        a: Weight,
        /// `[n, r]`
        b: Weight,
        /// The factor of the product.
        scale: f32,
    },
    /// `left · right`, for matrices.
    Product(Weight, Weight),
    /// `Σ c · x` over terms of one shape.
    Sum(Vec<(f32, Weight)>),
    /// `x · y`, element by element.
    Times(Weight, Weight),
    /// The Kronecker product of two matrices: every element of the first times the whole second.
    Kron(Weight, Weight),
    /// Every slice along `axis` times its own number.
    Scale {
        /// The scaled weight.
        of: Weight,
        /// One number for each index of `axis`.
        by: Weight,
        /// The dimension.
        axis: usize,
    },
    /// Rows (`axis` 0) or columns (1) of `of`, each times its entry of `norms` over the length that the same row or
    /// column of `like` has: the magnitudes of DoRA (arXiv 2402.09353).
    Renorm {
        /// The scaled weight.
        of: Weight,
        /// Whose lengths count; the same weight as `of` unless something was merged before.
        like: Weight,
        /// The new lengths.
        norms: Weight,
        /// The dimension.
        axis: usize,
        /// The factor of each row or column, once it is needed.
        factors: Computed<Vec<f32>>,
    },
    /// `of` with some of its rows replaced.
    Rows {
        /// `[n, k]`
        of: Weight,
        /// The numbers of the rows, each once.
        at: Vec<usize>,
        /// The new rows: `[at.len(), k]`
        rows: Weight,
    },
    /// The indices `from…to` of one dimension.
    Slice {
        /// The cut weight.
        of: Weight,
        /// The dimension.
        axis: usize,
        /// The indices that stay.
        range: Range<usize>,
    },
    /// Some indices of one dimension, in that order.
    Take {
        /// The source of the selection.
        of: Weight,
        /// The dimension.
        axis: usize,
        /// The selected indices; one may come again.
        at: Vec<usize>,
    },
    /// The share `density` of the elements, and zero for the others.
    Prune {
        /// The pruned weight.
        of: Weight,
        /// The share that stays, in 0…1.
        density: f64,
        /// The seed of a random choice; without one, the elements of the largest magnitude stay.
        seed: Option<u64>,
    },
    /// `Σ c · x` over those terms, element by element, whose sign is that of the majority, divided by their number:
    /// the election of TIES (arXiv 2306.01708).
    Elect {
        /// The counted weight.
        by: Majority,
        /// The terms, of one shape.
        terms: Vec<(f32, Weight)>,
    },
    /// The nearest matrix of that rank: the largest singular values and their vectors.
    LowRank {
        /// The approximated weight.
        of: Weight,
        /// How many singular values stay.
        rank: usize,
        /// The factors, once they are needed: they are small, and the search for them is not.
        found: Computed<Factors>,
    },
    /// Symmetric 8-bit values of `of`, one scale per index of `axis`: `round(w / s)`.
    QuantizedValues {
        /// The quantized weight, of rank 2.
        of: Weight,
        /// The channel dimension.
        axis: usize,
        /// The values that there are.
        range: Int8Range,
        /// The scale of each channel, once it is needed.
        steps: Computed<Vec<f32>>,
    },
    /// The scales that belong to [`Expr::QuantizedValues`]: `max |w|` of each channel by the largest value that there is.
    QuantizedScales {
        /// The quantized weight, of rank 2.
        of: Weight,
        /// The channel dimension.
        axis: usize,
        /// The values that there are.
        range: Int8Range,
    },
    /// A part of the rows of `of` in blocks of 8 or 4 bits.
    Blocks {
        /// The quantized weight, of rank 2.
        of: Weight,
        /// The format.
        how: Blocks,
        /// Which part.
        part: BlockPart,
    },
}

impl Weight {
    fn new(dtype: DType, shape: Vec<usize>, expr: Expr) -> Weight {
        Weight(Arc::new(Inner { dtype, shape, expr }))
    }

    /// Whether this is the very same weight, not one that computes the same.
    pub fn is(&self, other: &Weight) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// Element type and shape.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype(), self.shape().iter().copied())
    }

    /// How the elements come about.
    pub fn expr(&self) -> &Expr {
        &self.0.expr
    }

    /// Length of the elements in bytes. The constructors have checked that it fits.
    pub fn byte_len(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().size()
    }

    /// Whether the elements are there as they are, so that nothing has to be computed.
    pub fn is_stored(&self) -> bool {
        matches!(self.expr(), Expr::Source { .. } | Expr::Literal(_))
    }

    /// The name of the first file tensor in the expression, for messages.
    pub fn source_name(&self) -> Option<&str> {
        match self.expr() {
            Expr::Source { name, .. } => Some(name),
            _ => self.operands().first().and_then(|first| first.source_name()),
        }
    }

    /// Adds the file tensors in the expression, in its order; one that comes twice is added twice.
    pub fn sources<'a>(&'a self, into: &mut Vec<&'a Weight>) {
        match self.expr() {
            Expr::Source { .. } => into.push(self),
            _ => self.operands().into_iter().for_each(|operand| operand.sources(into)),
        }
    }

    /// The operands of the expression, the weight that it changes first.
    fn operands(&self) -> Vec<&Weight> {
        match self.expr() {
            Expr::Source { .. } | Expr::Literal(_) => Vec::new(),
            Expr::Transpose(w) | Expr::Cast(w) => vec![w],
            Expr::Concat { parts, .. } | Expr::Packed { parts, .. } => parts.iter().collect(),
            Expr::Sum(terms) | Expr::Elect { terms, .. } => terms.iter().map(|(_, w)| w).collect(),
            Expr::Lora { base, a, b, .. } => vec![base, a, b],
            Expr::Product(left, right) | Expr::Times(left, right) | Expr::Kron(left, right) => vec![left, right],
            Expr::Scale { of, by, .. } => vec![of, by],
            Expr::Renorm { of, like, norms, .. } => vec![of, like, norms],
            Expr::Rows { of, rows, .. } => vec![of, rows],
            Expr::Slice { of, .. }
            | Expr::Take { of, .. }
            | Expr::Prune { of, .. }
            | Expr::LowRank { of, .. }
            | Expr::QuantizedValues { of, .. }
            | Expr::QuantizedScales { of, .. }
            | Expr::Blocks { of, .. } => vec![of],
        }
    }

    fn matrix(&self, what: &str) -> Result<[usize; 2]> {
        <[usize; 2]>::try_from(self.shape()).map_err(|_| {
            let name = self.source_name().map(|name| format!(" of `{}`", printable(name))).unwrap_or_default();
            Error::bad_input(format!("{what}{name} needs a matrix, found {}", self.ty()))
        })
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weight({}, {:?})", self.ty(), self.source_name())
    }
}

fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |size, dim| size.checked_mul(*dim))
}

/// A range of bytes of something that owns them, such as a mapped file.
#[derive(Clone)]
pub struct Blob {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Blob {
    /// The bytes `range` of `owner`; `None` where the owner has no such range.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Blob> {
        (*owner).as_ref().get(range.clone())?;
        Some(Blob { owner, range })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        (*self.owner).as_ref().get(self.range.clone()).unwrap_or_default()
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}
