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
//! # What holds for every graph
//! 1. A value is made once, and before it is read.
//! 2. Names of values are unique; inputs and outputs keep the names they have on the outside.
//! 3. The type of every value is the one that [`infer()`] gives for the node that makes it.
//! 4. A named size is a dimension of an input; a fresh one is the length of a `Slice`, no input has it, and what comes
//!    before does not.
//! 5. A constant has the type of its expression.
//! 6. Every node leads to an output.
//! 7. What stands for an input that the caller leaves out has its element type, and its sizes where they are known.
//!
//! [`crate::verify`] checks these. Passes and back-ends rely on them.
//!
//! # Three levels of operations
//! Families draw **composite** operations (`Attention`, `LayerNorm`, `Gelu`, `Embed`, `Linear`). They stay whole while
//! passes work, so that no pattern has to be found again in what we drew ourselves. A target's lowering replaces them
//! by **plain** operations, which are those of ONNX, or by **contrib** operations of one runtime. [`Op`] says for each
//! what it takes and makes; [`infer()`] is the same in code.
//!
//! # Roles
//! A node can carry a [`Role`]: the part it plays in the model and the layer. Quantizing, pruning and reports act on
//! roles and so work for every family.
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
pub use graph::{Graph, Node, NodeId, Origin, Value, ValueId};
pub use infer::infer;
pub use op::{Attribute, Op};
pub use rewrite::{Action, Rewriter, reshape, retype, rewrite};
pub use role::{Block, Part, Role};
pub use size::{LARGEST as LARGEST_SIZE, Size, SizeError};
pub use types::{DType, Dim, TensorType};
pub use weight::{Blob, Majority, Weight};
