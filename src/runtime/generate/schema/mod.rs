//! JSON of a schema: before each choice, the tokens after which no text is JSON of the schema are forbidden.
//!
//! The schema becomes a grammar by the crate `llguidance` (feature `json-schema`), which knows of each token of the
//! vocabulary whether it may come next. What it does not implement is refused by name, and what JSON Schema lets readers
//! pass over is warned of: a misspelt keyword would change what is generated without a word.

mod built_in;
mod constraint;
mod keywords;
#[cfg(feature = "json-schema")]
mod matcher;
#[cfg(not(feature = "json-schema"))]
#[path = "no_matcher.rs"]
mod matcher;
mod read;
mod vocabulary;

pub use constraint::Constraint;
pub(super) use matcher::{Constrained, Grammar};
pub use read::JsonSchema;
