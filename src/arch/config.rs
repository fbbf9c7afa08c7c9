//! The fields of `config.json` that encoders after BERT have in common.

use serde::Deserialize;

use super::blocks::{Activation, EncoderLayer, heads};
use crate::checkpoint::{Size, json};
use crate::error::{Error, Result};

/// Sizes and options under BERT's names. A family with further fields parses the same text a second time.
#[derive(Deserialize)]
pub(super) struct EncoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    #[serde(default)]
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    #[serde(default = "tiny")]
    pub layer_norm_eps: f32,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
}

/// What `transformers` takes where a configuration is silent.
fn two() -> usize {
    2
}

/// What `transformers` takes where a configuration is silent.
fn tiny() -> f32 {
    1e-12
}

/// Checks what norms add to the variance.
pub(super) fn epsilon(layer_norm_eps: f32) -> Result<f32> {
    match layer_norm_eps.is_finite() && layer_norm_eps >= 0.0 {
        true => Ok(layer_norm_eps),
        false => Err(Error::bad_input(format!("expected a small positive number, found {layer_norm_eps}"))
            .at("config.json: layer_norm_eps")),
    }
}

impl EncoderConfig {
    /// Reads the fields, and refuses by name what would change the answer and is not drawn.
    pub fn read(text: &str) -> Result<EncoderConfig> {
        let config: EncoderConfig = json::parse(text, "config.json")?;
        match config.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(_) => {
                return Err(Error::unsupported("only absolute positions are drawn for this family")
                    .at("config.json: position_embedding_type"));
            }
        }
        epsilon(config.layer_norm_eps)?;
        if config.is_decoder || config.add_cross_attention {
            return Err(Error::unsupported("an encoder as a decoder is not drawn").at("config.json: is_decoder"));
        }
        Ok(config)
    }

    /// Width of the residual stream.
    pub fn hidden(&self) -> Size {
        Size { n: self.hidden_size, field: "hidden_size" }
    }

    /// Number of known tokens.
    pub fn vocabulary(&self) -> Size {
        Size { n: self.vocab_size, field: "vocab_size" }
    }

    /// Number of known positions.
    pub fn positions(&self) -> Size {
        Size { n: self.max_position_embeddings, field: "max_position_embeddings" }
    }

    /// Number of segments.
    pub fn segments(&self) -> Size {
        Size { n: self.type_vocab_size, field: "type_vocab_size" }
    }

    /// The sizes of one layer.
    pub fn layer(&self) -> Result<EncoderLayer> {
        Ok(EncoderLayer {
            hidden: self.hidden(),
            inner: Size { n: self.intermediate_size, field: "intermediate_size" },
            heads: heads(self.num_attention_heads, self.hidden_size)?,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
        })
    }
}
