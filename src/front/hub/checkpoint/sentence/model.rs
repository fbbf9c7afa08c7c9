//! The settings of a whole model of sentence-transformers, in `config_sentence_transformers.json`, and of its encoder, in
//! `sentence_bert_config.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fields::only_known;
use crate::error::{Error, Result, printable};
use crate::json;

/// The file of the whole model.
pub(super) const MODEL: &str = "config_sentence_transformers.json";

/// The fields of `config_sentence_transformers.json`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ModelConfig {
    /// `SentenceTransformer`, `CrossEncoder` or `SparseEncoder`; the first by default.
    #[serde(default)]
    pub model_type: Option<String>,
    /// Texts that are put before others, by their names.
    #[serde(default)]
    prompts: Option<BTreeMap<String, Option<String>>>,
    /// The name of the one that is put before every text.
    #[serde(default)]
    default_prompt_name: Option<String>,
    /// The dimension that a vector is truncated to.
    #[serde(default)]
    truncate_dim: Option<Value>,
    /// How two vectors are compared.
    #[serde(default)]
    pub similarity_fn_name: Option<String>,
    /// The class in `torch.nn` of a cross-encoder's activation.
    #[serde(default)]
    pub activation_fn: Option<String>,
}

/// A text that is put before every other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its name.
    pub name: String,
    /// The text.
    pub text: String,
}

impl ModelConfig {
    /// The prompt before every text. Fails where the named prompt does not exist.
    pub fn prompt(&self) -> Result<Option<Prompt>> {
        // Every model for similarity has these two, if empty.
        const ALWAYS: [&str; 2] = ["query", "document"];
        let Some(name) = &self.default_prompt_name else { return Ok(None) };
        match self.prompts.as_ref().and_then(|prompts| prompts.get(name)) {
            Some(text) => {
                let text = text.clone().unwrap_or_default();
                Ok(Some(Prompt { name: name.clone(), text }).filter(|prompt| !prompt.text.is_empty()))
            }
            None if ALWAYS.contains(&name.as_str()) => Ok(None),
            None => {
                let known: Vec<String> = self.prompts.iter().flatten().map(|(name, _)| printable(name)).collect();
                Err(Error::bad_input(format!("there is no prompt `{}` in `prompts`", printable(name)))
                    .at(format!("{MODEL}: default_prompt_name"))
                    .hint(format!("there are: {}", known.join(", "))))
            }
        }
    }

    /// All prompts by their names, those of an empty text too.
    pub fn prompts(&self) -> Vec<Prompt> {
        let named = self.prompts.iter().flatten().filter_map(|(name, text)| Some((name.clone(), text.clone()?)));
        named.map(|(name, text)| Prompt { name, text }).collect()
    }

    /// The dimension that a vector is truncated to, where it is.
    pub fn truncate_dim(&self) -> Result<Option<usize>> {
        let Some(said) = self.truncate_dim.as_ref().filter(|said| !said.is_null()) else { return Ok(None) };
        let kept = said.as_u64().and_then(|kept| usize::try_from(kept).ok()).filter(|kept| *kept > 0);
        let wrong = || {
            Error::bad_input(format!("a vector cannot be cut to {} numbers", printable(&said.to_string())))
                .at(format!("{MODEL}: truncate_dim"))
        };
        kept.map(Some).ok_or_else(wrong)
    }
}

/// The file of the encoder, as messages call it.
pub(super) const ENCODER: &str = "sentence_bert_config.json";

/// The encoder's own configuration.
#[derive(Clone, Debug, Default)]
pub struct EncoderConfig {
    /// Longest text in tokens, where one is set.
    pub max_seq_length: Option<usize>,
    /// Whether texts are put in lower case before they are tokenized.
    pub do_lower_case: bool,
    /// Which of the classes of `transformers` is made of it.
    pub task: Option<String>,
    /// The called method, and the name of its output; both where they are set.
    output: Option<(String, String, String)>,
    /// Arguments of the tokenizer's class.
    pub tokenizer: Map<String, Value>,
    /// Where texts are read as messages of a chat: how.
    pub messages: Option<Messages>,
}

/// How texts become messages of a chat.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Messages {
    /// Whether the content of a message is a list of parts rather than a text.
    pub structured: bool,
    /// The arguments of the template.
    pub arguments: Map<String, Value>,
}

/// The same as it is written.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: Option<bool>,
    #[serde(default)]
    transformer_task: Option<String>,
    #[serde(default)]
    modality_config: Option<BTreeMap<String, Modality>>,
    #[serde(default)]
    module_output_name: Option<String>,
    #[serde(default, alias = "tokenizer_args")]
    processor_kwargs: Option<Map<String, Value>>,
    #[serde(default)]
    processing_kwargs: Option<Map<String, Value>>,
    #[serde(default, alias = "config_args")]
    config_kwargs: Option<Map<String, Value>>,
}

/// How a kind of input is read.
#[derive(Deserialize)]
struct Modality {
    method: String,
    #[serde(default)]
    method_output_name: Option<String>,
    /// Of messages: `flat` or `structured`.
    #[serde(default)]
    format: Option<String>,
}

/// The fields of the file; its arguments of the model do not affect the predictions.
const FIELDS: [&str; 14] = [
    "max_seq_length",
    "do_lower_case",
    "transformer_task",
    "modality_config",
    "module_output_name",
    "processor_kwargs",
    "tokenizer_args",
    "processing_kwargs",
    "config_kwargs",
    "config_args",
    "model_kwargs",
    "model_args",
    "unpad_inputs",
    "backend",
];

/// Arguments that change no prediction.
const HARMLESS: [&str; 3] = ["trust_remote_code", "padding", "return_tensors"];

impl EncoderConfig {
    /// Reads the fields of the file. Fails where an unknown one is set.
    pub fn of(fields: Map<String, Value>) -> Result<EncoderConfig> {
        only_known(&fields, &FIELDS)?;
        let written: Written = json::from_value(Value::Object(fields), ENCODER)?;
        let Written { transformer_task, modality_config, module_output_name, .. } = written;
        let (text, mut messages) = modality_config.map(read_as).transpose()?.unzip();
        let output = text.map(|text| {
            let Modality { method, method_output_name, .. } = text;
            (method, method_output_name.unwrap_or_default(), module_output_name.unwrap_or_default())
        });
        only_known(&written.config_kwargs.unwrap_or_default(), &HARMLESS)
            .map_err(|e| e.at(format!("{ENCODER}: config_kwargs")))?;
        let mut processing = written.processing_kwargs.unwrap_or_default();
        if let Some(Some(messages)) = &mut messages
            && let Some(Value::Object(arguments)) = processing.remove("chat_template")
        {
            messages.arguments = template_arguments(arguments)?;
        }
        let called = called_with(processing)?;
        Ok(EncoderConfig {
            max_seq_length: called.or(written.max_seq_length),
            do_lower_case: written.do_lower_case.unwrap_or_default(),
            task: transformer_task,
            output,
            tokenizer: written.processor_kwargs.unwrap_or_default(),
            messages: messages.flatten(),
        })
    }

    /// Fails where something else than `output` of the encoder goes on, under the name `goes_on`.
    pub fn check_output(&self, output: &str, goes_on: &str) -> Result<()> {
        match &self.output {
            None => Ok(()),
            Some((method, given, name))
                if (method.as_str(), given.as_str()) == ("forward", output) && name == goes_on =>
            {
                Ok(())
            }
            Some((method, given, name)) => Err(Error::unsupported(format!(
                "the encoder's `{}` of `{}` as `{}` is not built",
                printable(given),
                printable(method),
                printable(name)
            ))
            .at(format!("{ENCODER}: modality_config"))
            .hint(format!("known: `{output}` of `forward` as `{goes_on}`"))),
        }
    }
}

/// How texts are read, and whether as messages of a chat: those go first. Fails where they are not read at all.
fn read_as(mut kinds: BTreeMap<String, Modality>) -> Result<(Modality, Option<Messages>)> {
    let location = format!("{ENCODER}: modality_config");
    if let Some(message) = kinds.remove("message") {
        let structured = match message.format.as_deref() {
            Some("flat") => false,
            Some("structured") => true,
            other => {
                let other = printable(other.unwrap_or("null"));
                return Err(Error::unsupported(format!("messages of the format `{other}` are not built"))
                    .at(location)
                    .hint("known: flat, structured"));
            }
        };
        return Ok((message, Some(Messages { structured, ..Messages::default() })));
    }
    let text = kinds.remove("text");
    let text = text.ok_or_else(|| Error::unsupported("a model that does not read texts is not built").at(location))?;
    Ok((text, None))
}

/// Arguments of a chat template: the variables that it reads. Fails where one is about what comes of it.
fn template_arguments(mut arguments: Map<String, Value>) -> Result<Map<String, Value>> {
    let restored = arguments.remove("restore_suffix").is_none_or(|value| value == Value::Bool(true));
    let other = ["truncation", "max_length", "tokenize", "continue_final_message", "chat_template"];
    match other.into_iter().find(|name| arguments.contains_key(*name)).or((!restored).then_some("restore_suffix")) {
        None => Ok(arguments),
        Some(name) => Err(Error::unsupported(format!("the argument `{name}` is not built"))
            .at(format!("{ENCODER}: processing_kwargs.chat_template"))),
    }
}

/// The limit of a text's length that the tokenizer is called with. Fails where another field would change predictions.
fn called_with(mut by_kind: Map<String, Value>) -> Result<Option<usize>> {
    let location = format!("{ENCODER}: processing_kwargs");
    let mut limit = None;
    for kind in ["common", "text"] {
        let Some(Value::Object(mut arguments)) = by_kind.remove(kind) else { continue };
        if let Some(said) = arguments.remove("max_length") {
            limit = json::from_value(said, &format!("{location}.{kind}.max_length"))?;
        }
        let usual = |value: &Value| *value == Value::Bool(true) || value == "longest_first";
        arguments.retain(|key, value| key != "truncation" || !usual(value));
        only_known(&arguments, &HARMLESS).map_err(|e| e.at(format!("{location}.{kind}")))?;
    }
    // Settings of images, sounds and chats do not matter to texts.
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(config: &str) -> ModelConfig {
        json::parse(config, MODEL).unwrap()
    }

    #[test]
    fn the_prompt_is_the_one_that_is_named() {
        let of = |config: &str| model(config).prompt().map(|prompt| prompt.map(|prompt| prompt.text));
        let prompts = r#""prompts": {"query": "find: ", "passage": null}"#;
        let named = |name: &str| of(&format!(r#"{{{prompts}, "default_prompt_name": {name}}}"#));
        assert_eq!(named("null").unwrap(), None);
        assert_eq!(named(r#""query""#).unwrap(), Some("find: ".to_owned()));
        assert_eq!(named(r#""passage""#).unwrap(), None);
        assert_eq!(named(r#""document""#).unwrap(), None);
        assert_eq!(
            named(r#""qeury""#).unwrap_err().to_string(),
            "there is no prompt `qeury` in `prompts`\n  in config_sentence_transformers.json: default_prompt_name\n\n\
             hint: there are: passage, query"
        );
    }

    #[test]
    fn a_vector_is_truncated() {
        let of = |dim: &str| model(&format!(r#"{{"truncate_dim": {dim}}}"#)).truncate_dim();
        assert_eq!((of("null").unwrap(), of("8").unwrap()), (None, Some(8)));
        for wrong in ["0", "-3", "2.5", "\"8\""] {
            assert!(of(wrong).unwrap_err().message().starts_with("a vector cannot be cut to"), "{wrong}");
        }
    }

    fn encoder(config: &str) -> Result<EncoderConfig> {
        EncoderConfig::of(json::parse(config, ENCODER)?)
    }

    #[test]
    fn the_length_is_the_one_that_the_tokenizer_is_called_with() {
        let of = |config: &str| encoder(config).unwrap().max_seq_length;
        assert_eq!(of("{}"), None);
        assert_eq!(of(r#"{"max_seq_length": 24}"#), Some(24));
        assert_eq!(of(r#"{"max_seq_length": 24, "processing_kwargs": {"text": {"max_length": 12}}}"#), Some(12));
    }

    #[test]
    fn unknown_fields_that_are_set_are_refused_by_name() {
        let said = |config: &str| encoder(config).unwrap_err().to_string();
        assert_eq!(said(r#"{"new_option": 3}"#), "the option `new_option` is not known, and it is 3");
        assert!(encoder(r#"{"new_option": null, "other": false}"#).is_ok());
        let called = r#"{"processing_kwargs": {"text": {"truncation": "only_first"}}}"#;
        assert_eq!(
            said(called),
            "the option `truncation` is not known, and it is \"only_first\"\n  \
             in sentence_bert_config.json: processing_kwargs.text"
        );
        let chat = r#"{"modality_config": {"message": {"method": "forward", "method_output_name": "logits"}}}"#;
        assert!(said(chat).starts_with("messages of the format `null` are not built"));
    }

    #[test]
    fn another_output_of_the_encoder_is_refused() {
        let config = r#"{"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
                         "module_output_name": "sentence_embedding"}"#;
        let error = encoder(config).unwrap().check_output("last_hidden_state", "token_embeddings").unwrap_err();
        assert_eq!(error.message(), "the encoder's `pooler_output` of `forward` as `sentence_embedding` is not built");
        assert!(encoder("{}").unwrap().check_output("logits", "scores").is_ok());
    }
}
