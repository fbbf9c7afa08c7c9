//! The table `[prune]` of recipes and the flags of the command line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Sparsity;
use crate::error::{Error, Result};

/// How units are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// By what the outputs of a layer lose once the others are fitted to do without.
    #[default]
    Reconstruction,
    /// By the size of activations times that of the weights that read them.
    Activation,
    /// By the size of the weights alone.
    Magnitude,
}

/// What is cut: in a recipe the table `[prune]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// The share of all attention heads that goes.
    #[serde(skip_serializing_if = "is_none")]
    pub heads: f64,
    /// The share of all inner neurons of feed-forward blocks that goes.
    #[serde(skip_serializing_if = "is_none")]
    pub ffn: f64,
    /// The share of the products of heads and neurons that is removed, of those that matter least for their cost.
    #[serde(skip_serializing_if = "is_none")]
    pub products: f64,
    /// How many layers stay; those go that are missed least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Layers that go, counted from 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop_layers: Vec<usize>,
    /// Which weights of the layers are zeros.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// Texts whose tokens are all that the vocabulary keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<PathBuf>,
    /// How units and weights are ranked.
    pub importance: Importance,
    /// Whether the rest is refitted to the trained model's values.
    pub refit: bool,
    /// Whether every block loses the same share, instead of more where it matters less.
    pub even: bool,
}

fn is_none(share: &f64) -> bool {
    *share == 0.0
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            heads: 0.0,
            ffn: 0.0,
            products: 0.0,
            layers: None,
            drop_layers: Vec::new(),
            sparsity: None,
            vocabulary: None,
            importance: Importance::default(),
            refit: true,
            even: false,
        }
    }
}

impl Spec {
    /// The same for reports, in which files have no folders.
    pub fn portable(&self) -> Spec {
        let name = |path: &PathBuf| path.file_name().map(PathBuf::from).unwrap_or_default();
        Spec { vocabulary: self.vocabulary.as_ref().map(name), ..self.clone() }
    }

    /// Whether heads or neurons go.
    pub fn cuts_blocks(&self) -> bool {
        [self.heads, self.ffn, self.products].iter().any(|share| *share > 0.0)
    }

    /// Whether anything is done that needs the model to run on texts.
    pub fn needs_texts(&self) -> bool {
        self.cuts_blocks() || self.layers.is_some() || !self.drop_layers.is_empty() || self.sparsity.is_some()
    }

    /// Fails where a share is none.
    pub fn check_shares(&self) -> Result<()> {
        for (share, name) in [(self.heads, "heads"), (self.ffn, "ffn"), (self.products, "products")] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::bad_input(format!("prune: {name} = {share}: the share that goes is from 0 to 1")));
            }
        }
        Ok(())
    }

    /// Fails where nothing is cut, where a share is none, or where two fields contradict or repeat each other.
    pub fn check(&self) -> Result<()> {
        self.check_shares()?;
        if self.products > 0.0 && (self.heads > 0.0 || self.ffn > 0.0) {
            return Err(Error::bad_input("prune: `products` says how much goes of heads and neurons together")
                .hint("leave out heads and ffn, or products"));
        }
        if self.layers.is_some() && !self.drop_layers.is_empty() {
            return Err(Error::bad_input("prune: `layers` chooses the layers that go, and `drop_layers` names them")
                .hint("leave out one of the two"));
        }
        if self.layers == Some(0) {
            return Err(Error::bad_input("prune: layers = 0: one layer has to stay"));
        }
        if !self.needs_texts() && self.vocabulary.is_none() {
            return Err(Error::bad_input("prune: nothing is to go")
                .hint("say how much of what: heads, ffn, products, layers, sparsity or vocabulary"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Spec;

    #[test]
    fn impossible_values_are_refused() {
        let message = |text: &str| {
            let spec: Result<Spec, _> = toml::from_str(text);
            spec.map_or_else(|e| e.message().to_owned(), |spec| spec.check().unwrap_err().message().to_owned())
        };
        assert_eq!(message("heads = 1.5"), "prune: heads = 1.5: the share that goes is from 0 to 1");
        assert_eq!(message("ffn = nan"), "prune: ffn = NaN: the share that goes is from 0 to 1");
        assert_eq!(message("layers = 0"), "prune: layers = 0: one layer has to stay");
        assert_eq!(message(""), "prune: nothing is to go");
        assert!(message("heads = 0.2\nproducts = 0.3").contains("together"));
        assert!(message("layers = 3\ndrop_layers = [1]").contains("names them"));
        assert!(message("sparsity = \"3:4\"").contains("`3:4` is no sparsity"), "{}", message("sparsity = \"3:4\""));
        assert!(message("sparsity = 1.0").contains("above 0 and below 1"));
        assert!(message("sparsity = 0.0").contains("above 0 and below 1"));
        assert!(toml::from_str::<Spec>("sparsity = \"2:4\"\nheads = 1").unwrap().check().is_ok());
    }
}
