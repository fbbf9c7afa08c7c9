//! SmolLM3: Llama's layers, every fourth of which has no positions, and may have a window.

use super::blocks::Scores;
use super::config::Fields;
use super::layer_types::{LayerType, window};
use super::llama::{self, Layer};
use super::rope::{self, Rope};
use super::stack::{ALL, Sizes, Stack, family};
use super::{Context, Family, Restated};
use crate::error::{Error, Result};
use crate::ir::Graph;

pub(super) const FAMILY: Family = family(
    ("smollm3", "SmolLM3"),
    r#"{
        "pad_token_id": 128004,
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "hidden_act": "silu", "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false,
        "use_sliding_window": false, "no_rope_layer_interval": 4
    }"#,
    ALL,
    build,
    restated,
);

const ROPE: Rope = Rope::whole(2_000_000.0);

fn restated(fields: &Fields) -> Result<Restated> {
    rope::restated(fields, &ROPE)
}

/// Which layers turn queries and keys: as listed, 1 for those that do, else all but every so many.
fn turned(fields: &Fields, layers: usize) -> Result<Vec<bool>> {
    let place = "config.json: no_rope_layers";
    let Some(listed) = fields.field::<Option<Vec<i64>>>("no_rope_layers")? else {
        let every: usize = fields.field("no_rope_layer_interval")?;
        return Ok((0..layers).map(|i| (i + 1).checked_rem(every) != Some(0)).collect());
    };
    if listed.len() != layers {
        return Err(Error::bad_input(format!("{} flags for {layers} layers", listed.len())).at(place));
    }
    Ok(listed.into_iter().map(|flag| flag != 0).collect())
}

fn build(context: &Context) -> Result<Graph> {
    let fields = &context.config;
    let sizes = Sizes::read(fields, "hidden_act", "rms_norm_eps")?;
    let stack = Stack::open(context, &sizes)?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let plain = Layer::new(&sizes.layer, &rotation).with_biases(fields)?;
    let turned = turned(fields, sizes.layers)?;
    let used: bool = fields.field("use_sliding_window")?;
    let window = window(fields, "sliding_window")?.filter(|_| used);
    let counted = |i: usize| match (window, turned.get(i)) {
        (Some(_), Some(false)) => LayerType::Sliding,
        _ => LayerType::Full,
    };
    let kinds = LayerType::of(fields, sizes.layers, counted)?;
    let layers: Vec<Layer> = kinds
        .into_iter()
        .zip(&turned)
        .map(|(kind, turned)| Layer {
            rotation: turned.then_some(&rotation),
            scores: Scores { window: window.filter(|_| kind == LayerType::Sliding), ..plain.scores },
            ..plain
        })
        .collect();
    llama::layers(stack, &sizes, &layers)
}
