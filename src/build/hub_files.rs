//! What a bundle keeps of the checkpoint for the Hub's layout: the configuration, as it is now, and what
//! `transformers` and Transformers.js want to know of the tokenizer.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Model, merge};
use crate::bundle::HUB;
use crate::error::{Error, Result};
use crate::json as files;
use crate::output::write_json;
use crate::presence;
use crate::runtime::{Classes, ProblemType};

/// Files of a tokenizer beside tokenizer.json that are read with it. Those that it was made from are left out.
const TOKENIZER: [&str; 2] = ["special_tokens_map.json", ADDED];

/// The file that numbers added tokens.
const ADDED: &str = "added_tokens.json";

/// The file whose limit on a text's length is the bundle's.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Writes the files into the bundle.
pub(super) fn keep(model: &Model, classes: &Classes, max_length: usize, bundle: &Path) -> Result<()> {
    let to = bundle.join(HUB);
    std::fs::create_dir(&to).map_err(|e| Error::io("writing to", bundle, &e))?;
    write_json(&to.join("config.json"), &config(model, classes)?)?;
    let cut = model.renumbered.is_some();
    let tokenizer = &model.tokenizer.dir;
    for name in presence::files_of(tokenizer, &TOKENIZER)? {
        // Numbers of before the cut would be wrong; tokenizer.json has those of now.
        if cut && name == ADDED {
            continue;
        }
        let from = tokenizer.join(name);
        std::fs::copy(&from, to.join(name)).map_err(|e| Error::io("copying", &from, &e))?;
    }
    let from = tokenizer.join(TOKENIZER_CONFIG);
    if presence::has_file(&from)? {
        let mut config: Map<String, Value> = files::read(&from)?;
        config.insert("model_max_length".to_owned(), json!(max_length));
        if cut {
            config.remove("added_tokens_decoder");
        }
        write_json(&to.join(TOKENIZER_CONFIG), &config)?;
    }
    Ok(())
}

/// The size of the vocabulary and the numbers of tokens after a cut.
fn renumber(config: &mut Map<String, Value>, numbers: &HashMap<u32, u32>) {
    for (key, value) in config.iter_mut() {
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        match number {
            Some(_) if key == "vocab_size" => *value = json!(numbers.len()),
            Some(n) if key.ends_with("_token_id") => {
                *value = numbers.get(&n).map_or(Value::Null, |now| json!(now));
            }
            _ => {}
        }
    }
}

/// The checkpoint's configuration with the class, the labels and the reading of what was built.
fn config(model: &Model, classes: &Classes) -> Result<Value> {
    let mut config: Map<String, Value> = files::parse(&model.checkpoint.config, "config.json")?;
    if let Some(old) = model.checkpoint.common.architectures.iter().flatten().next() {
        config.insert("architectures".to_owned(), json!([merge::class(old, model.task)]));
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
