//! Layers that attend to all tokens before, and layers with a window, as `layer_types` lists them.

use super::config::Fields;
use crate::error::{Error, Result, printable};

/// What a layer attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerType {
    /// All tokens before.
    Full,
    /// Those in a window.
    Sliding,
}

impl LayerType {
    /// Its name in `layer_types`.
    pub fn name(self) -> &'static str {
        match self {
            LayerType::Full => "full_attention",
            LayerType::Sliding => "sliding_attention",
        }
    }

    /// One for each layer: as listed, else by `counted`, which is given the number of the layer.
    pub fn of(fields: &Fields, layers: usize, counted: impl Fn(usize) -> LayerType) -> Result<Vec<LayerType>> {
        let place = "config.json: layer_types";
        let Some(listed) = fields.field::<Option<Vec<String>>>("layer_types")? else {
            return Ok((0..layers).map(counted).collect());
        };
        if listed.len() != layers {
            return Err(Error::bad_input(format!("{} kinds for {layers} layers", listed.len())).at(place));
        }
        let known = [LayerType::Full, LayerType::Sliding];
        let of = |name: &String| known.into_iter().find(|kind| kind.name() == name).ok_or_else(|| unknown(name));
        listed.iter().map(of).collect()
    }
}

fn unknown(name: &str) -> Error {
    Error::unsupported(format!("layers of the kind `{}` are not built", printable(name)))
        .at("config.json: layer_types")
        .hint("known: full_attention and sliding_attention")
}

/// The window of a field, in tokens; none where it is null.
pub(super) fn window(fields: &Fields, field: &'static str) -> Result<Option<i64>> {
    match fields.field::<Option<i64>>(field)? {
        Some(n) if n < 1 => {
            Err(Error::bad_input(format!("expected 1 or more tokens, found {n}")).at(format!("config.json: {field}")))
        }
        window => Ok(window),
    }
}
