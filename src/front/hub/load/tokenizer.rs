//! The tokenizer of a model: that of its checkpoint or of an adapter, by all of its files.

use std::path::Path;

use serde::Deserialize;
use serde_json::Map;

use super::limits;
use crate::error::{Error, Result};
use crate::front::folder::Folder;
use crate::front::hub::checkpoint::{
    Checkpoint, ModuleKind, Prompt, Purpose, SentenceModule, SentenceModules, TOKENIZER_FILE, Tokenizer, TokenizerUse,
};
use crate::ir::Graph;
use crate::json;
use crate::ports::PortKind;
use crate::presence;
use crate::runtime::{Lengths, TextEncoder};
use crate::settings::{Settings, Similarity};
use crate::task::head::Head;
use crate::task::id::Task;

/// The tokenizer in the folder `dir`, for a graph and its task.
pub(crate) fn open(checkpoint: &Checkpoint, folder: &Folder, graph: &Graph, task: Task) -> Result<Tokenizer> {
    open_for(checkpoint, folder, sentence(checkpoint, task), |usage| TokenizerUse {
        rows: limits::rows(graph),
        token_types: graph.port(PortKind::TokenTypes).is_some(),
        pairs: task.reads_pairs(),
        ..usage
    })
}

fn open_for(
    checkpoint: &Checkpoint,
    folder: &Folder,
    sentence: Option<&SentenceModules>,
    usage: impl FnOnce(TokenizerUse) -> TokenizerUse,
) -> Result<Tokenizer> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        tokenizer_class: Option<String>,
    }
    let Named { tokenizer_class } = json::parse(&checkpoint.config, "config.json")?;
    let plain = TokenizerUse {
        model_type: checkpoint.common.model_type.as_deref().unwrap_or_default(),
        class: tokenizer_class.as_deref(),
        ..of_sentence(sentence)
    };
    Tokenizer::open(folder, &usage(plain))
}

/// The text settings of an ONNX model, from the files beside its tokenizer.
pub struct TextConfig {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The prompt before every text.
    pub prompt: Option<Prompt>,
    /// The defaults of predictions.
    pub pipeline: Settings,
    /// Longest text in tokens, where it is limited.
    pub max_length: Option<usize>,
}

impl TextConfig {
    /// Reads a lone `tokenizer.json`, and the files beside it; none where no configuration, its own or a
    /// model's, is beside it. Without a task, texts are read as sentence-transformers does, where the model is one of its.
    pub fn of(file: &Path, task: Option<Task>) -> Result<Option<TextConfig>> {
        #[derive(Default, Deserialize)]
        struct Config {
            #[serde(default)]
            model_type: Option<String>,
            #[serde(default)]
            tokenizer_class: Option<String>,
        }
        let dir = file.parent().unwrap_or(Path::new(""));
        let named = file.file_name().is_some_and(|name| name == TOKENIZER_FILE);
        let config = dir.join("config.json");
        let sentence = SentenceModules::around(dir)?;
        let of_model = presence::has_file(&config)?;
        if !named || !of_model && !presence::has_file(&dir.join("tokenizer_config.json"))? && sentence.is_none() {
            return Ok(None);
        }
        let config: Config = if of_model { json::read(&config)? } else { Config::default() };
        let sentence = sentence.as_ref().filter(|modules| task.is_none_or(|task| is_for(modules, task)));
        let usage = TokenizerUse {
            model_type: config.model_type.as_deref().unwrap_or_default(),
            class: config.tokenizer_class.as_deref(),
            token_types: true,
            pairs: task.is_none_or(Task::reads_pairs),
            ..of_sentence(sentence)
        };
        if sentence.is_some_and(|modules| modules.encoder_config.messages.is_some()) {
            return Err(Error::unsupported("texts as messages of a chat are read by bundles alone")
                .hint("kilnc build CHECKPOINT makes one"));
        }
        let tokenizer = Tokenizer::open(dir, &usage)?;
        if tokenizer.json.is_none() {
            return Ok(None);
        }
        let said = sentence.and_then(|modules| modules.encoder_config.max_seq_length);
        Ok(Some(TextConfig {
            prompt: sentence.map_or(Ok(None), |modules| modules.model.prompt())?,
            pipeline: match task {
                Some(task) => settings_of(sentence, task)?,
                None => Settings::default(),
            },
            max_length: said.or(tokenizer.max_length),
            tokenizer,
        }))
    }
}

/// The tokenizer settings of a model of sentence-transformers.
fn of_sentence<'a>(sentence: Option<&SentenceModules>) -> TokenizerUse<'a> {
    TokenizerUse {
        lower_case: sentence.is_some_and(|modules| modules.encoder_config.do_lower_case),
        arguments: sentence.map_or_else(Map::new, |modules| modules.encoder_config.tokenizer.clone()),
        ..TokenizerUse::default()
    }
}

/// Enters how many tokens of the prompt come before those of a text, where pooling leaves them out.
pub(crate) fn count_prompt(checkpoint: &mut Checkpoint, folder: &Folder) -> Result<()> {
    let Some(sentence) = &checkpoint.sentence else { return Ok(()) };
    let left_out = |module: &SentenceModule| matches!(module.kind, ModuleKind::Pooling { include_prompt: false, .. });
    if !sentence.modules.iter().any(left_out) {
        return Ok(());
    }
    let (Some(prompt), tokenizer) =
        (sentence.model.prompt()?, open_for(checkpoint, folder, Some(sentence), |usage| usage)?)
    else {
        return Ok(());
    };
    let encoder = TextEncoder::parse(tokenizer.text()?.to_owned(), usize::MAX)?;
    let encoded = encoder.split(&[prompt.text.as_str().into()], &Lengths::cut(usize::MAX))?;
    // As sentence-transformers counts: a single token after the prompt does not count as part of it.
    let counted = encoded.first().map(|encoded| {
        let followed = encoded.len().checked_sub(1).is_some_and(|last| encoded.is_special(last));
        encoded.len() - usize::from(followed)
    });
    if let Some(sentence) = &mut checkpoint.sentence {
        sentence.prompt_tokens = counted;
    }
    Ok(())
}

/// The settings of sentence-transformers, where the task is theirs.
pub(crate) fn sentence(checkpoint: &Checkpoint, task: Task) -> Option<&SentenceModules> {
    checkpoint.sentence.as_ref().filter(|modules| is_for(modules, task))
}

fn is_for(modules: &SentenceModules, task: Task) -> bool {
    match task.head() {
        Head::Embedding => true,
        Head::TextLogits => matches!(modules.purpose(), Ok(Some(Purpose::Scores))),
        _ => false,
    }
}

/// The prompts that a text may have before it, by their names. None where pooling leaves a prompt out: the graph is built for
/// the length of the default one.
pub(crate) fn prompts(checkpoint: &Checkpoint, task: Task) -> Vec<Prompt> {
    let left_out = |module: &SentenceModule| matches!(module.kind, ModuleKind::Pooling { include_prompt: false, .. });
    let named = sentence(checkpoint, task).filter(|modules| !modules.modules.iter().any(left_out));
    named.map(|modules| modules.model.prompts()).unwrap_or_default()
}

/// The prompt before every text.
pub(crate) fn prompt(checkpoint: &Checkpoint, task: Task) -> Result<Option<Prompt>> {
    sentence(checkpoint, task).map_or(Ok(None), |modules| modules.model.prompt())
}

/// The defaults of predictions, as far as the model has them.
pub(crate) fn settings(checkpoint: &Checkpoint, task: Task) -> Result<Settings> {
    settings_of(checkpoint.sentence.as_ref(), task)
}

fn settings_of(sentence: Option<&SentenceModules>, task: Task) -> Result<Settings> {
    let modules = sentence.filter(|_| task.head() == Head::Embedding);
    let named = modules.and_then(|modules| modules.model.similarity_fn_name.as_deref());
    let similarity = named.map(str::parse::<Similarity>).transpose();
    let similarity = similarity.map_err(|e| e.at("config_sentence_transformers.json: similarity_fn_name"))?;
    // Defaults need no note.
    Ok(Settings { similarity: similarity.filter(|how| *how != Similarity::default()), ..Settings::default() })
}
