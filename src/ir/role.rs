//! Roles of nodes in a model.
//!
//! Families mark their nodes, so that passes and reports can speak of “the query projection of layer 3” without
//! knowing any family.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, printable};

/// The part a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role {
    /// Which part.
    pub part: Part,
    /// The layer it belongs to, counted from 0; none outside the layers.
    pub layer: Option<usize>,
}

/// The kind of building block a part belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Block {
    Embedding,
    Attention,
    FeedForward,
    Router,
    Outliers,
    Adapter,
    Head,
}

macro_rules! parts {
    ($($(#[$doc:meta])* $part:ident = $name:literal in $block:ident;)*) => {
        /// The parts of the building blocks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Part {
            $($(#[$doc])* $part,)*
        }

        impl Part {
            /// Every part there is.
            pub const ALL: &[Part] = &[$(Part::$part),*];

            /// The name in the text form and in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Part::$part => $name,)*
                }
            }

            /// The part with that name.
            pub fn from_name(name: &str) -> Option<Part> {
                match name {
                    $($name => Some(Part::$part),)*
                    _ => None,
                }
            }

            /// The block the part belongs to.
            pub fn block(self) -> Block {
                match self {
                    $(Part::$part => Block::$block,)*
                }
            }
        }
    };
}

parts! {
    /// Rows looked up for tokens, positions and token types, and their norm.
    Embedding = "embedding" in Embedding;
    /// Tables by position that attention reads.
    Position = "position" in Embedding;
    /// The query projection.
    Query = "query" in Attention;
    /// The key projection.
    Key = "key" in Attention;
    /// The value projection.
    Value = "value" in Attention;
    /// Query, key and value in one projection.
    Qkv = "qkv" in Attention;
    /// Key and value in one projection, where the query reads other rows.
    KeyValue = "kv" in Attention;
    /// Scores, softmax and weighted sum.
    Attention = "attention" in Attention;
    /// The projection of the heads' outputs.
    AttentionOutput = "attention-output" in Attention;
    /// The residual and norm after attention.
    AttentionNorm = "attention-norm" in Attention;
    /// The query projection of attention to another component's rows.
    CrossQuery = "cross-query" in Attention;
    /// The key projection of another component's rows.
    CrossKey = "cross-key" in Attention;
    /// The value projection of another component's rows.
    CrossValue = "cross-value" in Attention;
    /// Key and value of another component's rows in one projection.
    CrossKeyValue = "cross-kv" in Attention;
    /// Scores, softmax and weighted sum over another component's rows.
    CrossAttention = "cross-attention" in Attention;
    /// The projection of the heads' outputs after attention to another component's rows.
    CrossOutput = "cross-out" in Attention;
    /// The residual and norm after attention to another component's rows.
    CrossNorm = "cross-norm" in Attention;
    /// The projection to the inner size.
    FeedForwardIn = "ffn-in" in FeedForward;
    /// The non-linearity between the two projections.
    Activation = "activation" in FeedForward;
    /// The projection back from the inner size.
    FeedForwardOut = "ffn-out" in FeedForward;
    /// The projection of an expert to its inner size.
    ExpertIn = "expert-in" in FeedForward;
    /// The projection of an expert back from its inner size.
    ExpertOut = "expert-out" in FeedForward;
    /// The choice of experts.
    Router = "router" in Router;
    /// The residual and norm after the feed-forward block.
    FeedForwardNorm = "ffn-norm" in FeedForward;
    /// Channels that are too large for 8 bits, computed separately.
    Outliers = "outliers" in Outliers;
    /// The projection of a bottleneck adapter to its inner size.
    AdapterDown = "adapter-down" in Adapter;
    /// The projection of a bottleneck adapter back from its inner size.
    AdapterUp = "adapter-up" in Adapter;
    /// The other nodes of an adapter: its norms, non-linearity, gate, scale and residual.
    Adapter = "adapter" in Adapter;
    /// The projection of the first token.
    Pooler = "pooler" in Head;
    /// The task's own projection.
    Head = "head" in Head;
}

impl Role {
    /// A part of layer `layer`.
    pub fn layer(part: Part, layer: usize) -> Role {
        Role { part, layer: Some(layer) }
    }

    /// The name in recipes and reports, e.g. `ffn-out/3`, which reads back.
    pub fn name(self) -> String {
        self.layer.map_or_else(|| self.part.name().to_owned(), |layer| format!("{}/{layer}", self.part.name()))
    }

    /// Whether two roles are of one thing: the same, or a projection and one that it was merged into.
    pub fn overlaps(self, other: Role) -> bool {
        let pieces = |part: Part| match part {
            Part::Qkv => vec![Part::Query, Part::Key, Part::Value],
            Part::KeyValue => vec![Part::Key, Part::Value],
            Part::CrossKeyValue => vec![Part::CrossKey, Part::CrossValue],
            alone => vec![alone],
        };
        let others = pieces(other.part);
        self.layer == other.layer && pieces(self.part).iter().any(|part| others.contains(part))
    }

    /// Whether a node with such a role is meant by one of `roles`.
    pub fn is_in(role: Option<Role>, roles: &[Role]) -> bool {
        role.is_some_and(|role| roles.iter().any(|other| role.overlaps(*other)))
    }
}

impl From<Part> for Role {
    fn from(part: Part) -> Role {
        Role { part, layer: None }
    }
}

impl FromStr for Role {
    type Err = Error;

    /// Reads `ffn-out/3` or `pooler`.
    fn from_str(text: &str) -> Result<Role> {
        let (name, layer) = text.split_once('/').map_or((text, None), |(name, layer)| (name, Some(layer)));
        let part = Part::from_name(name).ok_or_else(|| {
            let error = Error::bad_input(format!("no part of a model is called `{}`", printable(name)));
            error.hint_nearest_or(
                name,
                Part::ALL.iter().map(|part| part.name()),
                "known: query, key, value, attention-output, ffn-in, ffn-out, each with a layer, as in ffn-out/3",
            )
        })?;
        let number = |layer: &str| {
            layer.parse().map_err(|_| Error::bad_input(format!("`{}`: the layer must be a number", printable(text))))
        };
        Ok(Role { part, layer: layer.map(number).transpose()? })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_projection_is_each_of_its_parts() {
        let role = |text: &str| text.parse::<Role>().unwrap();
        for (a, b, overlap) in [
            ("query/3", "query/3", true),
            ("query/3", "query/4", false),
            ("qkv/3", "value/3", true),
            ("key/3", "qkv/3", true),
            ("kv/0", "query/0", false),
            ("kv/0", "qkv/0", true),
            ("cross-kv/0", "cross-value/0", true),
            ("kv/0", "cross-key/0", false),
            ("pooler", "head", false),
        ] {
            assert_eq!(role(a).overlaps(role(b)), overlap, "{a} and {b}");
        }
    }
}
