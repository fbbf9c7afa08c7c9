//! The configuration that a file's keys say, as `config.json` and `generation_config.json` have it.

use serde_json::{Map, Value, json};

use super::architectures::More;
use super::keys::missing;
use super::model::{Fields, Model};
use super::rope;
use super::tokenizer::Vocabulary;
use crate::error::{Error, Result};

/// Keys of how tokens are drawn, and the fields of `generation_config.json`.
const SAMPLING: [(&str, &str); 5] = [
    ("general.sampling.temp", "temperature"),
    ("general.sampling.top_k", "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

/// The sizes that other fields follow from.
struct Sizes {
    hidden: usize,
    layers: usize,
    heads: usize,
    head_size: usize,
    positions: usize,
}

/// The fields of `config.json`.
pub(super) fn fields(model: &Model, vocabulary: Option<&Vocabulary>) -> Result<Fields> {
    let (keys, architecture) = (&model.contents.keys, model.architecture);
    let options = architecture.options;
    refuse(model)?;
    let sizes = Sizes::read(model)?;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("model_type", json!(architecture.model_type));
    put("architectures", json!([architecture.class]));
    put("vocab_size", json!(rows(model)?));
    put("hidden_size", json!(sizes.hidden));
    put("num_hidden_layers", json!(sizes.layers));
    put("num_attention_heads", json!(sizes.heads));
    put("max_position_embeddings", json!(sizes.positions));
    let inner = keys.needed(&architecture.key("feed_forward_length"))?;
    if options.more == More::Gpt2 {
        put("n_inner", json!(inner));
    } else {
        put("intermediate_size", json!(inner));
        put("num_key_value_heads", json!(model.heads("attention.head_count_kv")?));
        put("head_dim", json!(sizes.head_size));
    }
    let (field, key) = options.epsilon;
    let key = architecture.key(key);
    put(field, json!(keys.number(&key)?.ok_or_else(|| missing(&key))?));
    let is_there = |name: &str| model.contents.tensors.contains_key(name);
    put("tie_word_embeddings", json!(!is_there("output.weight")));
    if options.attention_bias {
        put("attention_bias", json!(is_there("blk.0.attn_q.bias")));
    }
    if options.mlp_bias {
        put("mlp_bias", json!(is_there("blk.0.ffn_up.bias")));
    }
    for (field, token) in vocabulary.map(tokens).unwrap_or_default() {
        put(field, json!(token));
    }
    if let Some(licence) = keys.text("general.license")? {
        put("license", json!(licence));
    }
    more(model, &sizes, &mut fields)?;
    if options.rotary {
        rope::add(model, &mut fields, [sizes.head_size, sizes.positions])?;
    }
    Ok(fields)
}

/// The tokens with a meaning, by their fields; null where the file has none, or the class would put one.
fn tokens(vocabulary: &Vocabulary) -> Vec<(&'static str, Option<u32>)> {
    let ends = vocabulary.ends.first().copied();
    vec![("bos_token_id", vocabulary.begin), ("eos_token_id", ends), ("pad_token_id", vocabulary.padding)]
}

/// The fields of `generation_config.json`.
pub(super) fn generation(model: &Model, vocabulary: &Vocabulary) -> Result<Fields> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("bos_token_id", json!(vocabulary.begin));
    put("eos_token_id", json!(vocabulary.ends));
    put("pad_token_id", json!(vocabulary.padding));
    let keys = &model.contents.keys;
    let mut drawn = false;
    for (key, field) in SAMPLING {
        if let Some(number) = keys.number(key)? {
            drawn = true;
            put(field, if field == "top_k" { json!(number as i64) } else { json!(number) });
        }
    }
    if drawn {
        put("do_sample", json!(true));
    }
    Ok(fields)
}

/// Options that no family here has.
fn refuse(model: &Model) -> Result<()> {
    let (keys, architecture) = (&model.contents.keys, model.architecture);
    let refused = |end: &str, what: &str| Err(Error::unsupported(what).at(format!("key `{}`", architecture.key(end))));
    if keys.size(&architecture.key("expert_count"))?.is_some_and(|experts| experts > 0) {
        return refused("expert_count", "experts are not built for this architecture");
    }
    keys.pass_over(&architecture.key("expert_used_count"));
    if keys.flag(&architecture.key("attention.causal"))? == Some(false) {
        return refused("attention.causal", "attention to the tokens after is not built");
    }
    if keys.flag(&architecture.key("use_parallel_residual"))? == Some(false) {
        return refused("use_parallel_residual", "blocks after one another are not built for this architecture");
    }
    keys.pass_over(&architecture.key("vocab_size"));
    Ok(())
}

/// The rows of the word embeddings.
fn rows(model: &Model) -> Result<usize> {
    let name = "token_embd.weight";
    let table = model.contents.tensors.get(name).and_then(|table| table.shape().first());
    table.copied().ok_or_else(|| Error::bad_input(format!("tensor `{name}` is missing")))
}

impl Sizes {
    fn read(model: &Model) -> Result<Sizes> {
        let (keys, architecture) = (&model.contents.keys, model.architecture);
        let needed = |end: &str| keys.needed(&architecture.key(end));
        let (hidden, heads) = (needed("embedding_length")?, model.heads("attention.head_count")?);
        if heads == 0 {
            return Err(Error::bad_input("expected 1 or more heads, found 0")
                .at(format!("key `{}`", architecture.key("attention.head_count"))));
        }
        let key = architecture.key("attention.key_length");
        let head_size = match keys.size(&key)? {
            Some(size) => size,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(Error::bad_input(format!("{hidden} channels do not divide into {heads} heads"))
                    .at(format!("key `{}`", architecture.key("embedding_length"))));
            }
        };
        let value = architecture.key("attention.value_length");
        if let Some(other) = keys.size(&value)?.filter(|size| *size != head_size) {
            return Err(Error::unsupported(format!("heads of {other} values beside {head_size} keys are not built"))
                .at(format!("key `{value}`")));
        }
        let positions = needed("context_length")?;
        Ok(Sizes { hidden, layers: needed("block_count")?, heads, head_size, positions })
    }
}

/// What only some architectures have.
fn more(model: &Model, sizes: &Sizes, fields: &mut Fields) -> Result<()> {
    let (keys, architecture) = (&model.contents.keys, model.architecture);
    let key = |end: &str| architecture.key(end);
    let number = |end: &str| keys.number(&key(end));
    let window = || keys.size(&key("attention.sliding_window"));
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    match architecture.options.more {
        More::Nothing | More::SmolLm3 | More::Gpt2 => {}
        More::Window => put("sliding_window", json!(window()?.filter(|window| *window > 0))),
        More::Gemma2 => {
            put("sliding_window", json!(window()?.unwrap_or(4096)));
            put("attn_logit_softcapping", json!(number("attn_logit_softcapping")?.unwrap_or(50.0)));
            put("final_logit_softcapping", json!(number("final_logit_softcapping")?.unwrap_or(30.0)));
            put("query_pre_attn_scalar", json!(scalar(sizes, 46)));
        }
        More::Gemma3 => {
            put("sliding_window", json!(window()?.ok_or_else(|| missing(&key("attention.sliding_window")))?));
            put("layer_types", json!(layer_types(model, sizes.layers)?));
            put("rope_local_base_freq", json!(number("rope.freq_base_swa")?.unwrap_or(10_000.0)));
            put("query_pre_attn_scalar", json!(scalar(sizes, 62)));
            if let Some(cap) = number("final_logit_softcapping")? {
                put("final_logit_softcapping", json!(cap));
            }
        }
        More::Granite => {
            let usual = (sizes.head_size as f64).powf(-0.5);
            let of = |end: &str, usual: f64| Ok::<_, Error>(number(end)?.filter(|n| *n != 0.0).unwrap_or(usual));
            put("attention_multiplier", json!(of("attention.scale", usual)?));
            put("embedding_multiplier", json!(of("embedding_scale", 1.0)?));
            put("residual_multiplier", json!(of("residual_scale", 1.0)?));
            put("logits_scaling", json!(of("logit_scale", 1.0)?));
        }
        More::Cohere => {
            let scale = key("logit_scale");
            put("logit_scale", json!(keys.number(&scale)?.ok_or_else(|| missing(&scale))?));
            put("use_qk_norm", json!(model.contents.tensors.contains_key("blk.0.attn_q_norm.weight")));
        }
    }
    Ok(())
}

/// The number whose root divides the scores: the size of a head, but in the model of 27 B parameters, which llama.cpp knows by
/// its number of layers.
fn scalar(sizes: &Sizes, of_27b: usize) -> usize {
    if sizes.layers == of_27b { sizes.hidden / sizes.heads } else { sizes.head_size }
}

/// Gemma 3's kinds of layers: a list of flags, or every sixth layer, or another number, without a window.
fn layer_types(model: &Model, layers: usize) -> Result<Vec<&'static str>> {
    let (keys, key) = (&model.contents.keys, model.architecture.key("attention.sliding_window_pattern"));
    let name = |has_window: bool| if has_window { "sliding_attention" } else { "full_attention" };
    // No list has more entries than layers, and no file more layers than tensors.
    let layers = layers.min(model.contents.tensors.len());
    if keys.is_list(&key) {
        let flags = keys.flags(&key)?.unwrap_or_default();
        return Ok(flags.into_iter().map(name).collect());
    }
    let every = keys.size(&key)?.unwrap_or(6);
    Ok((1..=layers).map(|i| name(i.checked_rem(every) != Some(0))).collect())
}
