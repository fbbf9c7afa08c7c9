//! BERT (arXiv 1810.04805), as `transformers` saves it: post-norm encoder, learned positions, two segments.

use serde::Deserialize;

use super::blocks::{Activation, Blocks, EncoderLayer};
use super::{Drawing, Family, heads};
use crate::checkpoint::{Scope, Size, json};
use crate::error::{Error, Result};
use crate::ir::{Graph, Part, ValueId};

pub(super) const FAMILY: Family = Family { model_type: "bert", prefix: "bert", draw };

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Activation,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    add_cross_attention: bool,
}

impl Config {
    fn refuse_unsupported(&self) -> Result<()> {
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(_) => {
                return Err(Error::unsupported("only absolute positions are drawn for BERT")
                    .at("config.json: position_embedding_type"));
            }
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return Err(Error::bad_input(format!("expected a small positive number, found {}", self.layer_norm_eps))
                .at("config.json: layer_norm_eps"));
        }
        if self.is_decoder || self.add_cross_attention {
            return Err(Error::unsupported("BERT as a decoder is not drawn").at("config.json: is_decoder"));
        }
        Ok(())
    }

    fn hidden(&self) -> Size {
        Size { n: self.hidden_size, field: "hidden_size" }
    }

    fn layer(&self) -> Result<EncoderLayer> {
        Ok(EncoderLayer {
            hidden: self.hidden(),
            inner: Size { n: self.intermediate_size, field: "intermediate_size" },
            heads: super::blocks::heads(self.num_attention_heads, self.hidden_size)?,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
        })
    }
}

fn draw(drawing: &Drawing) -> Result<Graph> {
    let config: Config = json::parse(drawing.config, "config.json")?;
    config.refuse_unsupported()?;
    let layer = config.layer()?;
    let mut blocks = Blocks::new("bert");
    let bert = drawing.weights.sub("bert");
    let ids = blocks.token_input("input_ids");
    let mask = blocks.token_input("attention_mask");
    let types = blocks.token_input("token_type_ids");

    let mut x = embeddings(&mut blocks, &config, &bert.sub("embeddings"), ids, types)?;
    for i in 0..config.num_hidden_layers {
        x = blocks.encoder_layer(&bert.sub("encoder").item("layer", i), i, &layer, x, mask)?;
    }
    heads::draw(blocks, drawing, x, config.hidden(), |blocks, x| pooler(blocks, &config, &bert.sub("pooler"), x))
}

fn embeddings(blocks: &mut Blocks, config: &Config, p: &Scope, ids: ValueId, types: ValueId) -> Result<ValueId> {
    let hidden = config.hidden();
    blocks.role(Part::Embedding.into());
    let rows = |n, field| [Size { n, field }, hidden];
    let words = blocks.embed(&p.sub("word_embeddings"), rows(config.vocab_size, "vocab_size"), ids)?;
    let segments =
        blocks.embed(&p.sub("token_type_embeddings"), rows(config.type_vocab_size, "type_vocab_size"), types)?;
    let places = rows(config.max_position_embeddings, "max_position_embeddings");
    let positions = blocks.positions(&p.sub("position_embeddings"), places, 0, ids)?;
    let sum = blocks.add(&p.full("segments"), words, segments)?;
    let sum = blocks.add(&p.full("positions"), sum, positions)?;
    blocks.layer_norm(&p.sub("LayerNorm"), hidden, config.layer_norm_eps, sum)
}

/// The first token through a dense layer and tanh. Models that were saved without a pooler have none.
fn pooler(blocks: &mut Blocks, config: &Config, p: &Scope, x: ValueId) -> Result<Option<ValueId>> {
    if !p.has("dense.weight") {
        return Ok(None);
    }
    blocks.role(Part::Pooler.into());
    let first = blocks.first_token(p.path(), x)?;
    let dense = blocks.linear(&p.sub("dense"), config.hidden(), config.hidden(), first)?;
    blocks.tanh(&p.full("tanh"), dense).map(Some)
}
