//! The operations, declared once: the table below feeds the enum, the text form and its parser.

use super::types::{DType, Dim};

/// The value of an attribute, as the text form prints it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    Bool(bool),
    Ints(Vec<i64>),
    DType(DType),
    Dim(Dim),
    Dims(Vec<Dim>),
}

/// A type that an attribute of an operation can have.
pub trait AttributeValue: Sized {
    /// The attribute of the value; none for an absent one.
    fn to_attribute(&self) -> Option<Attribute>;
    /// The value of the attribute, if it is of this type.
    fn from_attribute(attribute: &Attribute) -> Option<Self>;
}

macro_rules! attribute_values {
    ($($ty:ty => $variant:ident,)*) => {$(
        impl AttributeValue for $ty {
            fn to_attribute(&self) -> Option<Attribute> {
                Some(Attribute::$variant(self.clone()))
            }
            fn from_attribute(attribute: &Attribute) -> Option<Self> {
                match attribute {
                    Attribute::$variant(value) => Some(value.clone()),
                    _ => None,
                }
            }
        }
    )*};
}

attribute_values! {
    i64 => Int,
    f32 => Float,
    bool => Bool,
    Vec<i64> => Ints,
    DType => DType,
    Dim => Dim,
    Vec<Dim> => Dims,
}

impl<T: AttributeValue> AttributeValue for Option<T> {
    fn to_attribute(&self) -> Option<Attribute> {
        self.as_ref().and_then(T::to_attribute)
    }

    fn from_attribute(attribute: &Attribute) -> Option<Option<T>> {
        T::from_attribute(attribute).map(Some)
    }
}

macro_rules! ops {
    (composite { $($composite:tt)* } plain { $($plain:tt)* }) => {
        declare! { $($composite)* $($plain)* }
        composites! { $($composite)* }
    };
}

macro_rules! composites {
    ($($(#[$doc:meta])* $name:ident $({ $($fields:tt)* })?;)*) => {
        impl Op {
            /// Whether a target's lowering has to replace the operation: it is none of ONNX's.
            pub fn is_composite(&self) -> bool {
                matches!(self, $(Op::$name { .. })|*)
            }
        }
    };
}

// An attribute with a default is not written where it has that value.
macro_rules! declare {
    ($($(#[$doc:meta])* $name:ident $({
        $($(#[$field_doc:meta])* $field:ident: $ty:ty $(= $default:expr)?),* $(,)?
    })?;)*) => {
        /// The operation of a node. Shapes are written outermost first; `…` means any leading dimensions.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $name $({ $($(#[$field_doc])* $field: $ty),* })?,)*
        }

        impl Op {
            /// The name of the operation in the text form.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Op::$name $({ $($field: _),* })? => stringify!($name),)*
                }
            }

            /// The attributes in the order of their declaration, but for those that have their default.
            pub fn attributes(&self) -> Vec<(&'static str, Attribute)> {
                match self {
                    $(Op::$name $({ $($field),* })? => {
                        let all: Vec<(&'static str, Option<Attribute>)> = vec![$($((
                            stringify!($field),
                            written::<$ty>($field, [$($default)?].first()),
                        )),*)?];
                        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
                    })*
                }
            }

            /// The operation with that name and those attributes; the error names what is wrong.
            pub fn from_parts(name: &str, attributes: &[(String, Attribute)]) -> Result<Op, String> {
                match name {
                    $(stringify!($name) => {
                        known(attributes, &[$($(stringify!($field)),*)?])?;
                        Ok(Op::$name $({
                            $($field: attribute(attributes, stringify!($field), [$($default)?].into_iter().next())?),*
                        })?)
                    })*
                    _ => Err(format!("unknown operation `{name}`")),
                }
            }
        }
    };
}

fn known(attributes: &[(String, Attribute)], fields: &[&str]) -> Result<(), String> {
    match attributes.iter().find(|(name, _)| !fields.contains(&name.as_str())) {
        Some((name, _)) => Err(format!("unknown attribute `{name}`")),
        None => Ok(()),
    }
}

/// The attribute of a value that is not its default.
fn written<T: AttributeValue + PartialEq>(value: &T, default: Option<&T>) -> Option<Attribute> {
    if default == Some(value) { None } else { value.to_attribute() }
}

fn attribute<T: AttributeValue>(
    attributes: &[(String, Attribute)],
    field: &str,
    default: Option<T>,
) -> Result<T, String> {
    match attributes.iter().find(|(name, _)| name == field) {
        Some((_, value)) => T::from_attribute(value).ok_or_else(|| format!("attribute `{field}` has another type")),
        None => default.ok_or_else(|| format!("missing attribute `{field}`")),
    }
}

ops! {
    // Composites, which families build. A target's lowering replaces each.
    composite {
        /// `(table [v, h], ids […]) → […, h]`: rows of a table.
        Embed;
        /// `(table [p, h], ids [b, s]) → [s, h]`: the rows `offset … offset + s` of a table.
        PositionEmbed { /// Row of the first position.
            offset: i64 };
        /// `(ids [b, s]) → i64 [b, s]`: positions that count the tokens which are not `pad`, from `place + 1` on; `pad`
        /// itself is at position `place`.
        TokenPositions { /// The padding token; no token where it is negative.
            pad: i64, /// The position of padding.
            place: i64 };
        /// `(table [buckets, heads], ids [b, s]) → [1, heads, s, s]`: what attention adds to the score of a query and a
        /// key, by the bucket that their distance falls into (arXiv 1910.10683).
        RelativeBias { /// Number of buckets, for both directions together.
            buckets: i64, /// Distances from here on share the last bucket.
            max_distance: i64, /// Longest sequence.
            positions: i64 };
        /// `(x […, k], w [k, n], bias [n]?) → […, n]`: `x · w + bias`.
        Linear;
        /// `(x […, k], values i8 [k, n], scales [n], bias [n]?) → […, n]`: a [`Op::Linear`] whose activations are
        /// quantized to 8 bits per tensor when it runs, and whose weights are 8-bit per output channel.
        DynamicQuantLinear;
        /// `(x […, k], values i8 [k, n], scales [n], bias [n]?) → […, n]`: a [`Op::Linear`] whose activations are quantized
        /// by numbers that were observed before, `round(x / scale) + zero_point`, and whose weights are 8-bit per output
        /// channel. Scales may be `f32` where the rest is in 16 bits.
        StaticQuantLinear { /// The activations' element type, `u8` or `i8`.
            to: DType, /// One step of the activations.
            scale: f32, /// The zero point.
            zero_point: i64 };
        /// `(x […, k], values i8 [k, n], scales [n], bias [n]?) → […, n]`: a [`Op::Linear`] whose weights alone are
        /// 8-bit, per output channel.
        WeightQuantLinear;
        /// `(x […, k], values u8 [n, blocks, size · bits / 8], scales [n, blocks], zero_points u8 [n, ⌈blocks · bits /
        /// 8⌉]?, bias [n]?) → […, n]`: a [`Op::Linear`] whose weights alone are of 8 or 4 bits, in blocks of `size`
        /// along `k`.
        BlockQuantLinear { /// Bits of a weight.
            bits: i64, /// Elements of a block.
            size: i64 };
        /// `(values i8 [v, h], scales [v], ids […]) → f32 […, h]`: rows of a table in 8 bits, one scale for each.
        QuantEmbed;
        /// `(x) → x · Φ(x)`, exact or by its tanh approximation (arXiv 1606.08415).
        Gelu { /// Whether to use the tanh approximation.
            tanh: bool };
        /// `(q [b, t, heads · d], k, v [b, s, kv · d], mask i64 [b, n]?, bias [1, heads, t, n]?, past_key, past_value
        /// [b, kv, p, d]?, sinks [heads]?) → [b, t, heads · d], present_key, present_value [b, kv, n, d] where there is
        /// a past`: softmax(`scale · q kᵀ + bias`) v for each head (arXiv 1706.03762).
        ///
        /// The keys are those of the past and then those of `k`, `n = p + s`, and so are the values. `k` and `v` may
        /// also be `[b, kv, s, d]`, as another component made them. Where heads share keys, the first `heads / kv` read
        /// the first key/value head, and so on (arXiv 2305.13245). A soft cap `c` makes `c · tanh(x / c)` of a score,
        /// before the bias.
        ///
        /// A query attends to the keys where the mask is not 0. The queries are at the positions of the last `t` keys:
        /// where it is causal, a query attends to those at its position and before, and in a window those less than
        /// `window` positions away. The output of a query that attends to no key is finite, and otherwise not defined.
        ///
        /// A sink is one more score of each query of a head, of a key whose value is zero.
        ///
        /// The mask may be `[b, t, n]`, by query and key; the bias may have `b` for the first 1, and 1 for `heads`.
        Attention { /// Number of heads of the queries.
            heads: i64, /// Factor of the scores, usually `1 / √d`.
            scale: f32, /// Number of heads of keys and values, if not as many.
            kv_heads: Option<i64> = None, /// Whether a query attends to no key after it.
            causal: bool = false, /// How many positions a query attends to on a side, its own included.
            window: Option<i64> = None, /// Most keys, where their positions matter.
            positions: Option<i64> = None, /// What no score is beyond.
            soft_cap: Option<f32> = None };
        /// `(x [b, s, heads · d], cos, sin [p, r / 2], positions i64 [b, s]?) → [b, s, heads · d]`, or `cos, sin
        /// [b, s, r / 2]` of each token and no positions: the first `r`
        /// channels of each head turned, pair by pair, by the angles whose cosines and sines are in the row of the
        /// token's position: pairs `(i, i + r/2)`, or `(2i, 2i + 1)` where they are interleaved (arXiv 2104.09864).
        /// Without positions, they count from 0.
        Rotary { /// Number of heads.
            heads: i64, /// Whether the channels of a pair are neighbours.
            interleaved: bool = false };
        /// `(x [b, s, heads · d]) → [b, s, heads · d]`: [`Op::Rotary`] of whole heads from position 0 on, by the angles
        /// `position · theta^(−2i/d)`.
        ThetaRotary { /// Number of heads.
            heads: i64, /// Base of the angles.
            theta: f32, /// Longest sequence.
            positions: i64 };
        /// `(ids [b, s]) → f32 [1, 1, s, s]`: 0 for keys at most `window` from the query, else the lowest number.
        LocalBias { /// Largest distance that attends.
            window: i64, /// Longest sequence.
            positions: i64 };
        /// `(ids [b, s]) → i64 [2 · s]`: for each of the distances `s, s − 1 … 1 − s`, or their opposites, the row of a
        /// table that has rows for `−span … span − 1` and shares the outermost ones. Where there are buckets, the span
        /// is their number, and distances beyond half of it share them by logarithm, up to `max_distance`; else the
        /// span is `max_distance` (arXiv 2006.03654).
        DistanceRows { /// Number of buckets for each direction, or 0.
            buckets: i64, /// Distances from here on share the last row.
            max_distance: i64, /// Whether the distances are `−s, 1 − s … s − 1`.
            opposite: bool, /// Longest sequence.
            positions: i64 };
        /// `(ids [b, s]) → f32 [2 · s, width]`: for each of the distances `s, s − 1 … 1 − s`, the sines and then the
        /// cosines of its products with `10000^(−2t/width)` (arXiv 1901.02860).
        Sinusoids { /// Number of sines and cosines.
            width: i64, /// Distances from here on count as this one, if it is not 0.
            clamp: i64, /// Longest sequence.
            positions: i64 };
        /// `(x [b, s, heads · d], rows [2 · s, heads · d]) → [b, heads, s, s]`: to the score of a query `i` and a key `j`,
        /// `scale · xᵢ · rows[s − (i − j)]` where `x` are the queries, `scale · xⱼ · rows[s − (j − i)]` where they are
        /// the keys.
        DistanceScores { /// Number of heads.
            heads: i64, /// Factor of the scores.
            scale: f32, /// Whether `x` are the keys.
            keys: bool };
        /// `(x [b, s, heads · d], table [2, heads · d], types i64 [b, s]) → [b, heads, s, s]`: `scale · xᵢ · table[1]`
        /// where the types of query `i` and key `j` differ, else `scale · xᵢ · table[0]` (arXiv 1906.08237).
        SegmentScores { /// Number of heads.
            heads: i64, /// Factor of the scores.
            scale: f32 };
        /// `(mask i64 [b, s]) → i64 [b, s, s]`: for each query, the keys where the mask is not 0, and itself.
        SelfMask { /// Longest sequence.
            positions: i64 };
        /// `(x [b, s, h], mask i64 [b, s]) → [b, s, h]`: 0 where the mask is.
        ZeroPadding;
        /// `(x [b, s, c], w [n, c / groups, k], bias [n]?) → [b, s, n]`: each token with the `k − 1` around it.
        TokenConv { /// Number of independent groups of channels.
            groups: i64 };
        /// `(x [b, s, c], w [c, 1, k], past [b, c, k − 1]?, bias [c]?) → [b, s, c], present [b, c, k − 1] where there
        /// is a past`: each token with the `k − 1` before it, channel by channel; before the first are those of the
        /// past, or zeros. The present is the last `k − 1` of the past and `x`.
        CausalConv;
        /// `(positions i64 [b, s]) → i64 [b, s]`: of a text whose largest position is `t − 1` the positions; or those
        /// and `trained`, where `t` is more.
        RowsByLength { /// Most tokens of a text that keeps its positions.
            trained: i64, /// Whether a state of shorter texts is of no use to one that has become longer.
            restarts: bool = false };
        /// `(frequencies [n, r], positions i64 [b, s]) → cos, sin [b, s, r]`: of the products of positions with row
        /// `max(0, t − trained)` of the frequencies, for a text whose largest position is `t − 1`.
        GrowingAngles { /// Most tokens of a text that has the first row.
            trained: i64 };
        /// `(x [b, s, h], mask i64 [b, s]) → [b, h]`: the mean over the positions where the mask is 1.
        MeanPool;
        /// The same, divided by the root of their number instead of their number.
        MeanSqrtLenPool;
        /// The same, each position counting as often as its number, from 1 on (arXiv 2202.08904).
        WeightedMeanPool;
        /// `(x [b, s, h], mask i64 [b, s]) → [b, h]`: the largest numbers over the positions where the mask is 1.
        MaxPool;
        /// `(x [b, s, h], mask i64 [b, s]) → [b, h]`: the last position where the mask is 1; zeros where there is none.
        LastToken;
        /// `(x […, h]) → […, h]`: divided by the Euclidean length of the last dimension.
        Normalize;
        /// `(x [b, s, h], chosen i64 [b, s, k]) → rows [k · b · s, h], counts i64 [experts], places i64 [b, s, k]`: for
        /// each choice of a token its row of `x`, those of the first expert first; how many choices each expert has;
        /// and the row of each choice.
        Dispatch { /// Number of experts.
            experts: i64 };
        /// `(x) → x` without dimension `axis`, at `index`.
        Select { /// The dimension that goes.
            axis: i64, /// Which element of it stays.
            index: i64 };
    }
    // As ONNX defines them at opset 17.
    plain {
        /// `(x […, h], scale [h], bias [h]?) → […, h]`: normalized over the last dimension (arXiv 1607.06450).
        LayerNorm { /// Added to the variance.
            epsilon: f32 };
        /// `(a, b) → a + b`, broadcast.
        Add;
        /// `(a, b) → a − b`, broadcast.
        Sub;
        /// `(a, b) → a · b`, broadcast, element by element.
        Mul;
        /// `(a, b) → a / b`, broadcast.
        Div;
        /// `(a, b, …) → a + b + …`, broadcast.
        Sum;
        /// `(a […, m, k], b […, k, n]) → […, m, n]`.
        MatMul;
        /// Normalized exponentials along `axis`.
        Softmax { /// The dimension whose elements add up to 1.
            axis: i64 };
        /// `(a, b) → max(a, b)`, broadcast.
        Max;
        /// Square root.
        Sqrt;
        /// Sums over `axes`, which stay with size 1 or go.
        ReduceSum { /// The dimensions that are summed.
            axes: Vec<i64>, /// Whether they stay.
            keep: bool };
        /// Means over `axes`, which stay with size 1 or go.
        ReduceMean { /// The dimensions that are averaged.
            axes: Vec<i64>, /// Whether they stay.
            keep: bool };
        /// The largest numbers over `axes`, which stay with size 1 or go.
        ReduceMax { /// The dimensions that are searched.
            axes: Vec<i64>, /// Whether they stay.
            keep: bool };
        /// Hyperbolic tangent.
        Tanh;
        /// Sine.
        Sin;
        /// Cosine.
        Cos;
        /// `1 / (1 + e⁻ˣ)`.
        Sigmoid;
        /// `max(x, 0)`.
        Relu;
        /// `x` where it is positive, else `alpha · x`.
        LeakyRelu { /// Slope below 0.
            alpha: f32 };
        /// The error function.
        Erf;
        /// `(condition bool, a, b) → a` where the condition holds, else `b`, broadcast.
        Where;
        /// The same numbers in another element type.
        Cast { /// The element type.
            to: DType };
        /// Running sums along `axis`.
        CumSum { /// The dimension that is summed.
            axis: i64 };
        /// `(data, indices) → ` slices of `data` along `axis`.
        Gather { /// The dimension that is indexed.
            axis: i64 };
        /// The same elements in another shape; 0 keeps a dimension, −1 is the rest.
        Reshape { /// The sizes.
            shape: Vec<i64> };
        /// `(x, sizes i64 [rank]) → ` the same elements in a shape whose sizes are known when it runs; 0 keeps a dimension,
        /// −1 is the rest.
        ReshapeTo { /// The sizes, in terms of those of the inputs.
            shape: Vec<Dim> };
        /// `(x, sizes i64 [rank]) → ` the same elements, repeated along dimensions of size 1 up to sizes that are known
        /// when it runs.
        ExpandTo { /// The sizes, in terms of those of the inputs.
            shape: Vec<Dim> };
        /// The dimensions in another order.
        Transpose { /// Which dimension goes where.
            perm: Vec<i64> };
        /// New dimensions of size 1 at `axes` of the result.
        Unsqueeze { /// Where.
            axes: Vec<i64> };
        /// The operands side by side along `axis`, whose sizes add up.
        Concat { /// The dimension along which they follow each other.
            axis: i64 };
        /// Consecutive pieces along `axis`.
        Split { /// The dimension that is cut.
            axis: i64, /// The sizes of the pieces.
            sizes: Vec<i64> };
        /// `(x, sizes i64 [pieces]) → ` consecutive pieces along `axis`, whose sizes are known when it runs.
        SplitTo { /// The dimension that is cut.
            axis: i64, /// The sizes of the pieces, which are made here.
            lengths: Vec<Dim> };
        /// The operands behind each other along the first dimension, which have as many rows in all as a split made
        /// pieces of.
        Join { /// How many rows.
            length: Dim };
        /// `(x [n]) → i64 [1, length]`: the indices of the elements that are not 0.
        NonZero { /// How many: a size that is made here.
            length: Dim };
        /// `(data, indices i64, updates) → ` the data with the update of each index in its place along `axis`; of data,
        /// indices and updates of one shape.
        Scatter { /// The dimension that is indexed.
            axis: i64 };
        /// `(x […, n], count i64 [1]) → values […, length], indices i64 […, length]`: the largest elements of the last
        /// dimension, or the smallest, in their order; of equal ones the first.
        TopK { /// How many.
            length: Dim, /// Whether they are the largest.
            largest: bool };
        /// `(x) → i64 [end − start]`: the sizes of the dimensions `start … end`.
        Shape { /// First dimension.
            start: i64, /// The one after the last.
            end: i64 };
        /// `(data, starts [1], ends [1]) → ` a range along `axis`, which is `length` long.
        Slice { /// The dimension that is cut.
            axis: i64, /// How long the range is.
            length: Dim };
        /// `(x [b, c, s], w [n, c / groups, k], bias [n]?) → [b, n, s + before + after + 1 − k]`, with zeros around
        /// `x`.
        Conv { /// Number of groups of channels.
            groups: i64, /// How many zeros are before and after; if not said, half of an odd kernel each.
            pads: Option<Vec<i64>> = None };
        /// `(x f32) → (y u8, scale f32 [], zero_point u8 [])`: 8-bit values over the range of `x`.
        DynamicQuantizeLinear;
        /// `(a u8 […, k], b i8 [k, n], a_zero_point u8 []) → i32 […, n]`.
        MatMulInteger;
        /// `(x, scale [], zero_point u8 or i8 []) → round(x / scale) + zero_point`, in the type of the zero point.
        QuantizeLinear;
        /// `(x u8 or i8, scale [] or [n], zero_point []?) → (x − zero_point) · scale`; a scale of several elements belongs
        /// to dimension `axis`.
        DequantizeLinear { /// The dimension of the scales.
            axis: i64 };

        // Plain operations that ONNX has since opset 23.

        /// `(x […, h], scale [h]) → […, h]`: divided by the root of the mean square of the last dimension (arXiv
        /// 1910.07467).
        RmsNorm { /// Added to the mean square.
            epsilon: f32 };
        /// `(q [b, t, heads · d], k, v [b, s, kv · d], bias [b, 1, t, n]?, past_key, past_value [b, kv, p, d]?) →
        /// [b, t, heads · d], present_key, present_value [b, kv, n, d] where there is a past`, as [`Op::Attention`]
        /// with the bias alone; `Attention` of ONNX. The bias may have 1 for `b`, and `heads` for 1.
        BiasedAttention { /// Number of heads of the queries.
            heads: i64, /// Factor of the scores.
            scale: f32, /// Number of heads of keys and values, if not as many.
            kv_heads: Option<i64> = None };

        // Operations of ONNX Runtime's own domain, `com.microsoft`.

        /// `(q [b, t, heads · d], k, v [b, s, heads · d], projection bias?, mask i32 [b, s]?, bias [1, heads, t, s]?) →
        /// [b, t, heads · d]`, with masks and biases as [`Op::Attention`].
        MultiHeadAttention { /// Number of heads.
            heads: i64, /// Factor of the scores.
            scale: f32 };
        /// `(x […, k], values i8 [k, n], scales [n], bias [n]?) → […, n]`.
        DynamicQuantizeMatMul;
        /// `(a u8 or i8 […, k], values i8 [k, n], a_scale [], scales [n], a_zero_point [], zero_points?, bias [n]?) → f32
        /// […, n]`.
        MatMulIntegerToFloat;
        /// `(x […, k], values u8 [n, blocks, size · bits / 8], scales [n, blocks], zero_points?, order?, bias [n]?) →
        /// […, n]`, the weights as in [`Op::BlockQuantLinear`].
        MatMulNBits { /// Bits of a weight.
            bits: i64, /// Elements of a block.
            size: i64 };
        /// The exact [`Op::Gelu`] in one kernel.
        FusedGelu;
    }
}

impl Op {
    /// Attention of every query to every key, each head with its own keys.
    pub fn attention(heads: i64, scale: f32) -> Op {
        Op::Attention { heads, scale, kv_heads: None, causal: false, window: None, positions: None, soft_cap: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_operation_again() {
        let grouped = Op::Attention {
            heads: 4,
            scale: 0.5,
            kv_heads: Some(2),
            causal: true,
            window: Some(8),
            positions: Some(64),
            soft_cap: Some(50.0),
        };
        for op in [
            Op::Embed,
            Op::LayerNorm { epsilon: 1e-12 },
            Op::Split { axis: 2, sizes: vec![1, 2] },
            Op::attention(2, 0.5),
            grouped,
        ] {
            let attributes: Vec<_> =
                op.attributes().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(Op::from_parts(op.name(), &attributes), Ok(op));
        }
    }

    #[test]
    fn operations_of_onnx_are_not_composite() {
        for op in [Op::Embed, Op::Linear, Op::Gelu { tanh: true }, Op::Select { axis: 1, index: 0 }] {
            assert!(op.is_composite(), "{op:?}");
        }
        for op in [Op::LayerNorm { epsilon: 1e-12 }, Op::Add, Op::FusedGelu, Op::Softmax { axis: -1 }] {
            assert!(!op.is_composite(), "{op:?}");
        }
    }

    #[test]
    fn defaults_are_not_written() {
        assert_eq!(Op::attention(2, 0.5).attributes().len(), 2);
        assert_eq!(Op::Rotary { heads: 2, interleaved: true }.attributes().len(), 2);
    }

    #[test]
    fn parts_that_are_not_an_operation_are_named() {
        assert_eq!(Op::from_parts("Fold", &[]), Err("unknown operation `Fold`".to_owned()));
        assert_eq!(Op::from_parts("Softmax", &[]), Err("missing attribute `axis`".to_owned()));
        let wrong = [("axis".to_owned(), Attribute::Bool(true))];
        assert_eq!(Op::from_parts("Softmax", &wrong), Err("attribute `axis` has another type".to_owned()));
        assert_eq!(Op::from_parts("Add", &wrong), Err("unknown attribute `axis`".to_owned()));
    }
}
