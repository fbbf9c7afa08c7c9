//! What is cut, in the words of recipes and of the command line.

use serde::{Deserialize, Serialize};

use super::{Importance, Sparsity};
use crate::error::{Error, Result};

/// What is cut. In a recipe it is the table `[prune]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// The share of all attention heads that goes.
    #[serde(skip_serializing_if = "is_none")]
    pub heads: f64,
    /// The share of all inner neurons of feed-forward blocks that goes.
    #[serde(skip_serializing_if = "is_none")]
    pub ffn: f64,
    /// Which weights of the layers are zeros.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// How units and weights are ranked.
    pub importance: Importance,
    /// Whether what is left is fitted anew to what the whole model computes.
    pub refit: bool,
    /// Whether the same share goes of every block, in place of more where it is missed less.
    pub even: bool,
}

fn is_none(share: &f64) -> bool {
    *share == 0.0
}

impl Default for Spec {
    fn default() -> Spec {
        Spec { heads: 0.0, ffn: 0.0, sparsity: None, importance: Importance::default(), refit: true, even: false }
    }
}

impl Spec {
    /// Fails where a share is none.
    pub fn check(&self) -> Result<()> {
        for (share, name) in [(self.heads, "heads"), (self.ffn, "ffn")] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::bad_input(format!("prune: {name} = {share}: the share that goes is from 0 to 1")));
            }
        }
        Ok(())
    }
}
