//! Mistral (arXiv 2310.06825): Llama's layers, whose attention may have a window.

use super::blocks::Scores;
use super::layer_types::window;
use super::llama::{self, Layer, ROPE, restated};
use super::stack::{ALL, Sizes, Stack, family};
use super::{Context, Family};
use crate::error::Result;
use crate::ir::Graph;

pub(super) const FAMILY: Family = family(
    ("mistral", "Mistral"),
    r#"{
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu", "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "sliding_window": 4096
    }"#,
    ALL,
    build,
    restated,
);

fn build(context: &Context) -> Result<Graph> {
    let sizes = Sizes::read(&context.config, "hidden_act", "rms_norm_eps")?;
    let stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let plain = Layer::new(&sizes.layer, &rotation);
    let scores = Scores { window: window(&context.config, "sliding_window")?, ..plain.scores };
    let layer = Layer { scores, ..plain };
    llama::layers(stack, &sizes, std::iter::repeat_n(&layer, sizes.layers))
}
