//! Ministral 3: Mistral's layers, whose queries become larger far into a text, as those of Llama 4.

use super::blocks::Scores;
use super::config::Fields;
use super::layer_types::window;
use super::llama::{self, Layer};
use super::rope::{self, Rope};
use super::stack::{ALL, Sizes, Stack, family};
use super::{Context, Family, Restated};
use crate::error::{Error, Result};
use crate::ir::Graph;

pub(super) const FAMILY: Family = family(
    ("ministral3", "Ministral3"),
    r#"{
        "pad_token_id": 11,
        "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
        "max_position_embeddings": 262144, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        "rope_parameters": {
            "type": "yarn", "rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 16384,
            "max_position_embeddings": 262144, "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0,
            "mscale": 1.0, "llama_4_scaling_beta": 0.1, "rope_type": "yarn"
        }
    }"#,
    ALL,
    build,
    restated,
);

/// How much larger queries become.
const GROWTH: &str = "llama_4_scaling_beta";

/// Its class writes the number of positions among the parameters, and reads it nowhere.
const ROPE: Rope = Rope { others: &[GROWTH, "max_position_embeddings"], ..Rope::whole(1_000_000.0) };

fn restated(fields: &Fields) -> Result<Restated> {
    rope::restated(fields, &ROPE)
}

fn build(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let sizes = Sizes::read(fields, "hidden_act", "rms_norm_eps")?;
    let mut stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let query_factor = match factors(fields, sizes.layer.positions)? {
        factors if factors.iter().all(|factor| *factor == 1.0) => None,
        factors => Some(stack.blocks.by_position("query_factor", &factors, &stack.inputs)?),
    };
    let plain = Layer::new(&sizes.layer, &rotation);
    let scores = Scores { window: window(fields, "sliding_window")?, ..plain.scores };
    let layer = Layer { scores, query_factor, ..plain };
    llama::layers(stack, &sizes, std::iter::repeat_n(&layer, sizes.layers))
}

/// What the query at each position is multiplied by: `1 + β · ln(1 + ⌊position / trained⌋)`.
fn factors(fields: &Fields, positions: usize) -> Result<Vec<f32>> {
    let missing = |name: &str| {
        Error::bad_input(format!("queries of this family become larger with their position, and `{name}` is missing"))
            .at("config.json: rope_parameters")
    };
    let beta = rope::parameter(fields, &ROPE, GROWTH)?.ok_or_else(|| missing(GROWTH))?;
    let trained = rope::original(fields, &ROPE)?.filter(|trained| *trained > 0);
    let trained = trained.ok_or_else(|| missing("original_max_position_embeddings"))?;
    let factor = |position: usize| 1.0 + beta as f32 * ((1 + position / trained) as f32).ln();
    Ok((0..positions).map(factor).collect())
}
