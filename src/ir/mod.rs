//! The graph and its specification.
//!
//! A [`Graph`] is a list of [`Node`]s in an order in which they can run. Nodes read and make [`Value`]s; a value is an
//! input, a constant or an output of one node, and has a [`TensorType`]: an element type and a shape.
//!
//! # Sizes
//! A dimension ([`Dim`]) is a known number, a named size (`batch_size`, `sequence_length`), or an integer expression over
//! named sizes: sums, products, floor and ceiling divisions and maxima (`past_sequence_length + sequence_length`,
//! `512*ceil(s/512)`). Expressions are in a normal form ([`Size`]), so that `==` compares sizes. Named sizes are 0 or more.
//! A size that is not known before a node runs has a fresh name, which starts with `?`.
//!
//! # Invariants of every graph
//! 1. A value is made once, and before it is read.
//! 2. Names of values are unique; inputs and outputs keep the names they have on the outside.
//! 3. The type of every value is the one that [`infer()`] returns for its node.
//! 4. A named size is a dimension of an input; a fresh one is the length of a `Slice`, no input has it, and what comes
//!    before does not.
//! 5. A constant has the type of its expression.
//! 6. Every node leads to an output.
//! 7. The default of an input has its element type, and its sizes where they are known.
//!
//! [`crate::verify`] checks these. Passes and back-ends rely on them.
//!
//! # Three levels of operations
//! Families build **composite** operations (`Attention`, `LayerNorm`, `Rotary`, `Gelu`, `Embed`, `Linear`). They stay
//! whole while passes work, so that no pattern has to be found again in graphs that we built ourselves. A target's
//! lowering replaces them by **plain** operations, which are those of ONNX, or by **contrib** operations of one
//! runtime. [`Op`] says for each its operands and outputs; [`infer()`] is the same in code.
//!
//! # Attention
//! [`Op::Attention`] is one operation for encoders, decoders and cross-attention between them. For a query `i` of `t`, of head
//! `h`, and keys `j` of `n`:
//!
//! ```text
//! score = scale · q[i, h] · k[j, h / (heads / kv_heads)]      grouped: heads share keys and values
//! score = soft_cap · tanh(score / soft_cap)                    where there is a soft cap
//! score = score + bias[h, i, j]                                where there is a bias
//! seen  = mask[j] ≠ 0                                          where there is a mask; or mask[i, j]
//!         and j ≤ n − t + i                                    where it is causal
//!         and n − t + i − j < window                           where there is a window; its size, unless causal
//! y     = Σ softmax over the keys that are attended to (score) · v[j, h / (heads / kv_heads)]
//! ```
//!
//! Where there are sinks, the softmax is also over `sink[h]`, whose share of the values is lost.
//!
//! - **A cache** is the operands `past_key` and `past_value` and the outputs `present_key` and `present_value`, all
//!   `[b, kv, length, d]`. `n` is the past's length and that of the new keys, and the past may be empty: prefill and a step
//!   are one graph. The mask covers past and new keys. A rotation is applied before, so that cached keys are rotated.
//! - **Padding** is where the mask is 0, on either side. Positions count padding, which changes no causal order and no
//!   window of tokens that follow each other without padding between them.
//! - **Cross-attention** has keys and values of another component: `[b, s, kv · d]`, or by head as a cache has them. It has
//!   no positions, so it is neither causal nor has a window.
//! - A query that attends to no key, such as padding before the first token, gets finite numbers that nothing may read.
//!
//! # Norms and rotations
//! [`Op::RmsNorm`] divides by the root of the mean square, where [`Op::LayerNorm`] subtracts the mean first. [`Op::Rotary`]
//! reads its cosines and sines from tables by position, so a scaling of angles is a table that a family makes; how many
//! columns they have says how much of each head is turned. Where angles follow the length of a text,
//! [`Op::GrowingAngles`] gives cosines and sines of each token. `LayerNorm` and `RmsNorm` are ONNX's own where a target
//! has them.
//!
//! # Convolutions
//! [`Op::CausalConv`] is over each channel of a token and those before it. What it keeps between runs has a fixed size:
//! the last inputs, which each run replaces.
//!
//! # Experts
//! [`Op::Dispatch`] puts the tokens of an expert behind each other, and [`Op::SplitTo`] gives each expert its own: as
//! many as have chosen it in this run, which may be none. What an expert computes is of that many rows, so one that
//! nobody chose computes nothing. How many rows an expert has is a size that the split makes.
//!
//! # Roles
//! A node can carry a [`Role`]: its part in the model and the layer. Quantizing, pruning and reports act on
//! roles and so work for every family. In a layer with cross-attention, `query`, `key`, `value` and `attention-output`
//! are of the layer's own tokens, and `cross-query`, `cross-key`, `cross-value` and `cross-out` of those of the other
//! component.
//!
//! # Weights
//! Constants are lazy expressions over mapped files ([`Weight`]); nothing is computed before emission.
//!
//! # Text form
//! A graph prints as text and parses back to the same graph ([`text`]); passes are tested in it.

mod builder;
mod fingerprint;
mod graph;
mod infer;
mod op;
mod rewrite;
mod role;
mod size;
pub mod text;
mod types;
pub mod weight;

pub use builder::Builder;
pub use fingerprint::Identity;
pub use graph::{Graph, Node, NodeId, Origin, Value, ValueId};
pub use infer::infer;
pub use op::{Attribute, Op};
pub use rewrite::{Action, Rewriter, reshape, retype, rewrite};
pub use role::{Block, Part, Role};
pub use size::{LARGEST as LARGEST_SIZE, Size, SizeError};
pub use types::{DType, Dim, TensorType};
pub use weight::{Blob, Majority, Weight};
