//! The folder of ONNX Runtime GenAI: `genai_config.json`, one model and its tokenizer.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::folder::{Exported, Folder, ort_engine, without_libraries, without_prompt};
use crate::bundle::{Bundle, ComponentEntry, GENERATION_CONFIG, GenerationConfig, HUB, TOKENIZER};
use crate::error::{Error, Result, printable};
use crate::json as files;
use crate::ports::PortKind;
use crate::settings::{EarlyStopping, Strategy};

/// The file that GenAI opens first.
const CONFIG: &str = "genai_config.json";

/// The model's file in the folder.
const MODEL: &str = "model.onnx";

/// The types of language models that GenAI knows under the name that they have on the Hub. Its `gpt2` is not the Hub's: it wants
/// keys and values of a layer in one tensor. `decoder` is any model.
const TYPES: [&str; 12] = [
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "lfm2",
    "llama",
    "mistral",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
];

/// Files that are not for GenAI: it has one configuration of its own.
const OTHERS: [&str; 2] = ["config.json", GENERATION_CONFIG];

/// Writes an engine with its tokenizer into an empty folder; the best that ONNX Runtime runs, if none is named.
///
/// # Errors
/// Unsupported: a bundle that generates no text, or has no engine for ONNX Runtime.
pub fn export(bundle: &Bundle, engine: Option<&str>, dir: &Path) -> Result<Exported> {
    let Some(generation) = &bundle.manifest.generation else {
        return Err(Error::unsupported(format!(
            "ONNX Runtime GenAI generates text, and the bundle is for {}",
            bundle.manifest.task
        )));
    };
    let mut folder = Folder::new(dir);
    let entry = ort_engine(bundle, engine, &mut folder.exported.notes)?;
    let config: Map<String, Value> = files::parse(&bundle.text(&format!("{HUB}/config.json"))?, "config.json")?;
    let of = Decoder::of(entry.model()?, &config)?;
    let written = files::sorted(genai_config(bundle, generation, &of)?);
    let text = serde_json::to_vec_pretty(&written).map_err(|e| Error::bug(format!("{CONFIG}: {e}")))?;
    folder.write(CONFIG, &text)?;
    let kept = bundle.manifest.files.iter().filter_map(|file| file.path.strip_prefix(HUB)?.strip_prefix('/'));
    for name in kept.filter(|name| !OTHERS.contains(name)) {
        folder.copy(bundle, &format!("{HUB}/{name}"), name)?;
    }
    folder.copy(bundle, TOKENIZER, TOKENIZER)?;
    folder.engine(bundle, entry, "", MODEL)?;
    without_libraries(bundle, &mut folder.exported.notes);
    without_prompt(bundle, &mut folder.exported.notes);
    Ok(folder.done())
}

/// The sizes of a decoder's graph, and which inputs it has.
struct Decoder {
    /// What each layer keeps between runs.
    layers: Vec<Layer>,
    /// How many inputs a convolution keeps, where there is one.
    conv: Option<usize>,
    kv_heads: usize,
    head_size: usize,
    vocabulary: usize,
    positions: bool,
    hidden: usize,
    heads: usize,
}

/// What a layer keeps between runs, by GenAI's names.
#[derive(Clone, Copy, PartialEq, serde::Serialize)]
enum Layer {
    #[serde(rename = "full_attention")]
    Attention,
    #[serde(rename = "conv")]
    Conv,
}

impl Decoder {
    /// Reads what the ports of the graph say, and of the checkpoint's configuration what they do not.
    fn of(component: &ComponentEntry, config: &Map<String, Value>) -> Result<Decoder> {
        let sizes = |kind: PortKind| -> Option<Vec<&str>> {
            let ports = component.inputs.iter().chain(&component.outputs);
            let (_, ty) = ports.filter_map(|port| port.split_once(": ")).find(|(name, _)| kind.is(name))?;
            Some(ty.split_once('[')?.1.trim_end_matches(']').split(", ").collect())
        };
        let missing = |kind: PortKind| {
            Error::unsupported(format!("the engine's graph has no `{}` with sizes that GenAI needs", kind.name()))
        };
        let size = |kind: PortKind, axis: usize| -> Result<usize> {
            sizes(kind).and_then(|sizes| sizes.get(axis)?.parse().ok()).ok_or_else(|| missing(kind))
        };
        let field = |names: [&str; 2]| -> Result<usize> {
            let found = names.iter().find_map(|name| config.get(*name)?.as_u64()?.try_into().ok());
            found.ok_or_else(|| {
                Error::bad_input(format!("config.json has no {}, which GenAI needs", names.map(printable).join(" or ")))
            })
        };
        let layer = |i: usize| match (sizes(PortKind::PastKey(i)), sizes(PortKind::PastConv(i))) {
            (Some(_), _) => Some(Layer::Attention),
            (None, Some(_)) => Some(Layer::Conv),
            (None, None) => None,
        };
        let layers: Vec<Layer> = (0..).map_while(layer).collect();
        let first = |kind: Layer| layers.iter().position(|layer| *layer == kind);
        let keys = PortKind::PastKey(first(Layer::Attention).unwrap_or_default());
        let conv = first(Layer::Conv).map(|i| size(PortKind::PastConv(i), 2)).transpose()?;
        Ok(Decoder {
            conv,
            kv_heads: size(keys, 1)?,
            head_size: size(keys, 3)?,
            layers,
            vocabulary: size(PortKind::Logits, 2)?,
            positions: sizes(PortKind::PositionIds).is_some(),
            hidden: field(["hidden_size", "n_embd"])?,
            heads: field(["num_attention_heads", "n_head"])?,
        })
    }
}

fn genai_config(bundle: &Bundle, generation: &GenerationConfig, of: &Decoder) -> Result<Value> {
    let manifest = &bundle.manifest;
    let positions = [manifest.positions, generation.positions].into_iter().flatten().min();
    let context = positions.ok_or_else(|| {
        Error::unsupported("the bundle does not say how many positions its model has, which GenAI needs")
    })?;
    let kind = TYPES.iter().find(|known| **known == manifest.model_type).copied().unwrap_or("decoder");
    let numbered = |kind: fn(usize) -> PortKind| kind(0).name().replacen(".0", ".%d", 1);
    let mut inputs = json!({
        "input_ids": PortKind::TokenIds.name(),
        "attention_mask": PortKind::AttentionMask.name(),
        "past_key_names": numbered(PortKind::PastKey),
        "past_value_names": numbered(PortKind::PastValue),
    });
    if let (true, Some(inputs)) = (of.positions, inputs.as_object_mut()) {
        inputs.insert("position_ids".to_owned(), PortKind::PositionIds.name().into());
    }
    let mut outputs = json!({
        "logits": PortKind::Logits.name(),
        "present_key_names": numbered(PortKind::PresentKey),
        "present_value_names": numbered(PortKind::PresentValue),
    });
    if let (Some(_), Some(inputs), Some(outputs)) = (of.conv, inputs.as_object_mut(), outputs.as_object_mut()) {
        inputs.insert("past_conv_names".to_owned(), numbered(PortKind::PastConv).into());
        outputs.insert("present_conv_names".to_owned(), numbered(PortKind::PresentConv).into());
    }
    let eos = match generation.eos.as_slice() {
        [one] => json!(one),
        several => json!(several),
    };
    // GenAI fills up batches with it, and wants one.
    let pad = generation.pad.or(generation.eos.first().copied()).unwrap_or_default();
    let mut config = json!({
        "model": {
            "type": kind,
            "bos_token_id": generation.bos.unwrap_or(pad),
            "eos_token_id": eos,
            "pad_token_id": pad,
            "vocab_size": of.vocabulary,
            "context_length": context,
            "decoder": {
                "filename": MODEL,
                "session_options": { "provider_options": [] },
                "head_size": of.head_size,
                "hidden_size": of.hidden,
                "num_attention_heads": of.heads,
                "num_key_value_heads": of.kv_heads,
                "num_hidden_layers": of.layers.len(),
                "inputs": inputs,
                "outputs": outputs,
            },
        },
        "search": search(&generation.strategy, context),
    });
    if let (Some(conv), Some(decoder)) = (of.conv, config.pointer_mut("/model/decoder").and_then(Value::as_object_mut))
    {
        decoder.insert("conv_cache_size".to_owned(), json!(conv));
        decoder.insert("layer_types".to_owned(), json!(of.layers));
    }
    Ok(config)
}

/// How tokens are chosen, by GenAI's names and with its defaults where nothing is said.
fn search(strategy: &Strategy, context: usize) -> Value {
    json!({
        "do_sample": strategy.samples(),
        "early_stopping": strategy.early_stopping == Some(EarlyStopping::When(true)),
        "length_penalty": strategy.length_penalty.unwrap_or(1.0),
        "max_length": context,
        "min_length": strategy.min_length.unwrap_or_default(),
        "no_repeat_ngram_size": strategy.no_repeat_ngram_size.unwrap_or_default(),
        "num_beams": strategy.beams(),
        "num_return_sequences": 1,
        // The graph gives a new cache for each token: there is no buffer to share.
        "past_present_share_buffer": false,
        "repetition_penalty": strategy.repetition_penalty.unwrap_or(1.0),
        "temperature": strategy.temperature.unwrap_or(1.0),
        "top_k": if strategy.samples() { strategy.top_k.unwrap_or(50) } else { 1 },
        "top_p": strategy.top_p.unwrap_or(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_may_keep_keys_and_values_or_the_inputs_of_a_convolution() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<String>>();
        let component = ComponentEntry {
            name: "model".to_owned(),
            file: "model.onnx".to_owned(),
            inputs: names(&[
                "input_ids: i64[batch_size, sequence_length]",
                "past_conv.0: f32[batch_size, 16, 2]",
                "past_key_values.1.key: f32[batch_size, 2, past_sequence_length, 4]",
                "past_key_values.1.value: f32[batch_size, 2, past_sequence_length, 4]",
                "past_conv.2: f32[batch_size, 16, 2]",
            ]),
            outputs: names(&["logits: f32[batch_size, sequence_length, 32]"]),
            state: Vec::new(),
        };
        let config = json!({"hidden_size": 16, "num_attention_heads": 4});
        let found = Decoder::of(&component, config.as_object().unwrap()).unwrap();
        assert_eq!(json!(found.layers), json!(["conv", "full_attention", "conv"]));
        assert_eq!((found.conv, found.kv_heads, found.head_size, found.positions), (Some(2), 2, 4, false));
    }
}
