//! Model families: from tensors and configuration to a graph.
//!
//! A family is one file: its configuration, the names of its weights, and `build`, made of the shared [`blocks`].
//! [`FAMILIES`] lists them, and [`Family`] is what one consists of.

mod albert;
mod bert;
pub mod blocks;
mod bloom;
mod build;
mod canonical;
mod classes;
mod cohere;
mod complete;
mod config;
mod deberta;
mod distilbert;
mod electra;
mod families;
mod family;
mod flexible;
mod gemma;
mod glm4;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod heads;
mod hypercomplex;
mod inserted;
mod known;
mod layer_types;
mod lfm2;
mod llama;
mod ministral;
mod mistral;
mod modernbert;
mod mpnet;
mod olmo2;
mod openai_gpt;
mod opt;
mod phi;
mod phi3;
mod qwen;
mod qwen_moe;
mod roberta;
mod rope;
mod sentence;
mod shared;
mod smollm3;
mod stack;
mod starcoder2;
mod task;
mod xlnet;

use crate::error::Result;
use crate::front::hub::checkpoint::{Checkpoint, CommonConfig};

pub use build::{Built, build, build_with};
pub use canonical::canonical_state;
pub use classes::is_bare;
pub use families::{FAMILIES, family};
use family::{Context, Decoder};
pub use family::{Family, Restated, Shared};
pub use shared::{contradictions, is_tied, same};
pub use task::Sources;

/// The fields that a configuration needs besides its own so that versions 4 and 5 of `transformers` read the same model.
pub fn restated(checkpoint: &Checkpoint) -> Result<Restated> {
    let family = family(&checkpoint.common)?;
    let restate = |of: fn(&config::Fields) -> Result<Restated>| of(&family.fields(&checkpoint.config)?);
    family.restated.map_or_else(|| Ok(Restated::default()), restate)
}

/// Adds the defaults of a configuration's class to the known fields of a model.
pub fn complete(checkpoint: &mut Checkpoint) -> Result<()> {
    let fields = family(&checkpoint.common)?.fields(&checkpoint.config)?;
    let CommonConfig { vocab_size, max_position_embeddings, .. } = &mut checkpoint.common;
    *vocab_size = vocab_size.or(fields.size("vocab_size"));
    let positions = ["max_position_embeddings", "n_positions"].into_iter().find_map(|name| fields.size(name));
    *max_position_embeddings = max_position_embeddings.or(positions);
    Ok(())
}
