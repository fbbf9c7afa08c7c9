//! The checkpoint's files for the Hub's layout: the configuration, as it is now, and what
//! `transformers` and Transformers.js want to know of the tokenizer.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::build::merge;
use crate::bundle::HUB;
use crate::error::{Error, Result};
use crate::front::hub::arch;
use crate::front::hub::checkpoint::{GENERATION, chat_template_files};
use crate::front::hub::load::Model;
use crate::json as files;
use crate::output::write_json;
use crate::runtime::{Classes, ProblemType};
use crate::task::Task;

/// Files of a tokenizer beside tokenizer.json that are read with it. Those that it was made from are left out.
const TOKENIZER: [&str; 2] = ["special_tokens_map.json", ADDED];

/// The file that numbers added tokens.
const ADDED: &str = "added_tokens.json";

/// The file whose limit on a text's length is the bundle's.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Writes the files into the bundle.
pub(in crate::build) fn keep(model: &Model, classes: &Classes, max_length: usize, bundle: &Path) -> Result<()> {
    let to = bundle.join(HUB);
    std::fs::create_dir(&to).map_err(|e| Error::io("writing to", bundle, &e))?;
    write_json(&to.join("config.json"), &files::sorted(config(model, classes)?))?;
    let cut = model.renumbered.is_some();
    let tokenizer = &model.tokenizer.folder;
    for name in tokenizer.files_of(&TOKENIZER)? {
        // Numbers of before the cut would be wrong; tokenizer.json has those of now.
        if cut && name == ADDED {
            continue;
        }
        tokenizer.copy(name, &to)?;
    }
    for name in chat_template_files(tokenizer)? {
        tokenizer.copy(&name, &to)?;
    }
    if let Some(mut config) = generation(model)? {
        if let Some(numbers) = &model.renumbered {
            renumber(&mut config, numbers);
        }
        write_json(&to.join(GENERATION), &files::sorted(config))?;
    }
    if tokenizer.has(TOKENIZER_CONFIG)? {
        let mut config: Map<String, Value> = tokenizer.read(TOKENIZER_CONFIG)?;
        config.insert("model_max_length".to_owned(), json!(max_length));
        if cut {
            config.remove("added_tokens_decoder");
        }
        write_json(&to.join(TOKENIZER_CONFIG), &files::sorted(config))?;
    }
    Ok(())
}

/// The settings of a language model, where it has any.
fn generation(model: &Model) -> Result<Option<Map<String, Value>>> {
    let encoder = &model.checkpoint.encoder;
    match model.task == Task::TextGeneration && encoder.has(GENERATION)? {
        true => encoder.read(GENERATION).map(Some),
        false => Ok(None),
    }
}

/// The tokens that a language model begins, ends and pads with, by its configuration and its settings.
pub(in crate::build) fn generation_tokens(model: &Model) -> Result<Vec<u32>> {
    let config: Map<String, Value> = files::parse(&model.checkpoint.config, "config.json")?;
    let settings = generation(model)?.unwrap_or_default();
    let named = config.iter().chain(&settings).filter(|(key, _)| is_token(key));
    let ids = named.flat_map(|(_, value)| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]));
    Ok(ids.filter_map(|id| id.as_u64()?.try_into().ok()).collect())
}

/// Whether a field says a token, or several.
fn is_token(key: &str) -> bool {
    key.ends_with("_token_id") || LISTS.contains(&key)
}

/// Fields of [`GENERATION`] that list tokens, or lists of tokens.
const LISTS: [&str; 4] = ["suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids"];

/// The size of the vocabulary and the token ids after a cut.
fn renumber(config: &mut Map<String, Value>, numbers: &HashMap<u32, u32>) {
    for (key, value) in config.iter_mut() {
        match key.as_str() {
            "vocab_size" if value.is_u64() => *value = json!(numbers.len()),
            key if is_token(key) => *value = renumbered(value, numbers).unwrap_or(Value::Null),
            _ => {}
        }
    }
}

/// A token by its number of now, or those of a list that are left. A word of several tokens, as a list in a list, is left
/// where all of them are.
fn renumbered(value: &Value, numbers: &HashMap<u32, u32>) -> Option<Value> {
    let token = |value: &Value| numbers.get(&value.as_u64()?.try_into().ok()?).map(|now| json!(now));
    let word = |value: &Value| match value {
        Value::Array(tokens) => tokens.iter().map(token).collect::<Option<Vec<Value>>>().map(Value::Array),
        value => token(value),
    };
    match value {
        Value::Array(values) => Some(values.iter().filter_map(word).collect()),
        value => token(value),
    }
}

/// The checkpoint's configuration with the class, the labels and the problem type of the built model.
fn config(model: &Model, classes: &Classes) -> Result<Value> {
    let mut config: Map<String, Value> = files::parse(&model.checkpoint.config, "config.json")?;
    if let Some(old) = model.checkpoint.common.architectures.iter().flatten().next() {
        config.insert(
            "architectures".to_owned(),
            json!([arch::family(&model.checkpoint.common)?.class_with(model.task.head(), old)?]),
        );
    }
    if model.task.has_labels() {
        merge::name_labels(&mut config, &classes.labels);
    }
    if let Some(numbers) = &model.renumbered {
        renumber(&mut config, numbers);
    }
    let problem = match classes.problem_type {
        ProblemType::MultiLabel => Some("multi_label_classification"),
        ProblemType::Regression => Some("regression"),
        ProblemType::SingleLabel | ProblemType::Logits | ProblemType::Score => None,
    };
    if let (Some(problem), true) = (problem, model.task.has_labels()) {
        config.insert("problem_type".to_owned(), problem.into());
    }
    Ok(Value::Object(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_of_a_configuration_gets_its_number_of_now() {
        let numbers = HashMap::from([(5, 0), (7, 1), (9, 2)]);
        let mut config: Map<String, Value> = serde_json::from_value(json!({
            "vocab_size": 12, "n_embd": 5, "eos_token_id": [7, 8], "bos_token_id": 5, "pad_token_id": 6,
            "suppress_tokens": [9, 10], "bad_words_ids": [[5], [7, 8], [9, 5]], "max_length": 7
        }))
        .unwrap();
        renumber(&mut config, &numbers);
        let expected = json!({
            "vocab_size": 3, "n_embd": 5, "eos_token_id": [1], "bos_token_id": 0, "pad_token_id": null,
            "suppress_tokens": [2], "bad_words_ids": [[0], [2, 0]], "max_length": 7
        });
        assert_eq!(Value::Object(config), expected);
    }
}
