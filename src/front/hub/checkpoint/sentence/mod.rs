//! Modules of sentence-transformers after an encoder: `modules.json` and the folders it names.

mod fields;
mod model;
mod pooling;

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{StateDict, Tensor, read_state};
use crate::error::{Error, Result, printable};
use crate::json;
use crate::presence;
use fields::yes;

pub use model::{EncoderConfig, Messages, ModelConfig, Prompt};
pub use pooling::Pooling;

/// A module after the encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceModule {
    /// Its folder, and where its tensors are.
    pub path: String,
    /// Its kind.
    pub kind: ModuleKind,
}

/// The kind of a module.
#[derive(Clone, Debug, PartialEq)]
pub enum ModuleKind {
    /// From hidden states to one vector: those of the modes, side by side.
    Pooling {
        /// The modes, in the order in which they follow each other.
        modes: Vec<Pooling>,
        /// Whether the tokens of a prompt count.
        include_prompt: bool,
    },
    /// A linear layer and a non-linearity.
    Dense(Dense),
    /// A norm over the vector.
    LayerNorm {
        /// The vector's width.
        dimension: usize,
    },
    /// The vector at length 1.
    Normalize,
    /// From the logits of the last token to a score of a pair.
    LogitScore(LogitScore),
    /// One that only training knows.
    Dropout,
    /// One of another class.
    Other(String),
}

/// A linear layer and a non-linearity, as a module's configuration describes them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Dense {
    /// Width of its input.
    pub in_features: usize,
    /// Width of its output.
    pub out_features: usize,
    /// Whether there is a bias.
    #[serde(default = "yes")]
    pub bias: bool,
    /// The class of the non-linearity in `torch.nn`.
    #[serde(default = "tanh")]
    pub activation_function: String,
    /// The name of its input, where that is not the vector.
    #[serde(default)]
    module_input_name: Option<String>,
    /// The name of its output, where that is not the input's.
    #[serde(default)]
    module_output_name: Option<String>,
}

impl Dense {
    /// Fails where it is about something else than the vector.
    fn check(&self) -> Result<()> {
        let names = [&self.module_input_name, &self.module_output_name];
        match names.into_iter().flatten().find(|name| *name != VECTOR) {
            None => Ok(()),
            Some(other) => Err(Error::unsupported(format!("a Dense on `{}` is not built", printable(other)))
                .at("config.json: module_input_name")
                .hint(format!("known: `{VECTOR}`"))),
        }
    }
}

/// The score of a reranker that is a language model: the logit of one token, less that of another where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogitScore {
    /// The token that says a pair belongs together: `yes`, `1`.
    pub true_token_id: usize,
    /// The token that says it does not.
    #[serde(default)]
    pub false_token_id: Option<usize>,
    /// The name of its input.
    #[serde(default)]
    module_input_name: Option<String>,
}

impl LogitScore {
    /// Fails where it is about something else than the logits of a language model.
    fn check(&self) -> Result<()> {
        if self.false_token_id == Some(self.true_token_id) {
            return Err(Error::bad_input(format!("both tokens are {}, so every score is 0", self.true_token_id))
                .at("config.json: true_token_id, false_token_id"));
        }
        match self.module_input_name.as_deref() {
            None | Some("causal_logits") => Ok(()),
            Some(other) => Err(Error::unsupported(format!("a LogitScore on `{}` is not built", printable(other)))
                .at("config.json: module_input_name")
                .hint("known: `causal_logits`")),
        }
    }
}

/// The vector of a text, as modules call it.
const VECTOR: &str = "sentence_embedding";

/// The default of sentence-transformers.
fn tanh() -> String {
    "torch.nn.modules.activation.Tanh".to_owned()
}

/// An entry of `modules.json`.
#[derive(Clone, Debug, Default)]
pub struct SentenceModules {
    /// The folder that was read.
    pub dir: PathBuf,
    /// The modules after the encoder, in order.
    pub modules: Vec<SentenceModule>,
    /// Their tensors, below the paths of their modules.
    pub state: StateDict,
    /// The fields of the whole model.
    pub model: ModelConfig,
    /// The fields of the encoder.
    pub encoder_config: EncoderConfig,
    /// How many tokens of a prompt come before those of a text, where they are known.
    pub prompt_tokens: Option<usize>,
    /// The folder of the encoder, below the checkpoint's.
    pub(super) encoder: PathBuf,
    /// The files that were read.
    pub(crate) files: Vec<PathBuf>,
}

/// The modules and settings of a model of sentence-transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A vector of each.
    Vectors,
    /// A score of a pair, or several.
    Scores,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct LayerNormConfig {
    dimension: usize,
}

/// The names that the encoder's own configuration has had: those that sentence-transformers itself looks for, in its order.
/// New families have the first, so the list is finished.
const TRANSFORMER_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// The tasks of a transformer that are built.
const KNOWN_TASKS: [&str; 3] = ["feature-extraction", "sequence-classification", LANGUAGE_MODEL];

/// The task of a transformer whose logits are scored.
const LANGUAGE_MODEL: &str = "text-generation";

/// The class of an encoder.
const TRANSFORMER: &str = "Transformer";

/// The class of a module of sentence-transformers; none of another's.
fn class(module: &Module) -> Option<&str> {
    module.kind.strip_prefix("sentence_transformers.").and_then(|path| path.rsplit('.').next())
}

fn is_transformer(module: &Module) -> bool {
    class(module) == Some(TRANSFORMER)
}

/// Reads the modules of a folder, if it is a model of sentence-transformers.
///
/// A module of an unknown class is stored by its name: whether that matters depends on the task.
pub(super) fn read(dir: &Path) -> Result<Option<SentenceModules>> {
    let path = dir.join("modules.json");
    if !presence::has_file(&path)? {
        return Ok(None);
    }
    let modules: Vec<Module> = json::read(&path)?;
    let mut found = SentenceModules::of_model(dir, path)?;
    for (i, module) in modules.into_iter().enumerate() {
        let location = format!("modules.json: {}", printable(&module.path));
        let class = class(&module);
        match (i, class) {
            (0, Some(TRANSFORMER)) => found.transformer(dir, &module).map_err(|e| e.at(location))?,
            _ => {
                let kind = found.kind(dir, &module, class).map_err(|e| e.at(location))?;
                found.modules.push(SentenceModule { path: module.path, kind });
            }
        }
    }
    Ok(Some(found))
}

/// Whether a folder is called as sentence-transformers calls that of a module: `0_Transformer`.
fn is_numbered(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.split_once('_')).map(|(number, _)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

impl SentenceModules {
    /// The text settings of the model to which the encoder in the folder `dir` belongs, if it is one of
    /// sentence-transformers. The modules after it are not read.
    pub fn around(dir: &Path) -> Result<Option<SentenceModules>> {
        // The folder may be named from inside, where its parent has no name.
        let named = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let dir = &std::fs::canonicalize(named).map_err(|e| Error::io("reading", named, &e))?;
        for root in [Some(dir.as_path()), dir.parent()].into_iter().flatten() {
            let path = root.join("modules.json");
            if !presence::has_file(&path)? {
                continue;
            }
            let modules: Vec<Module> = match json::read(&path) {
                // Another program's file, which happens to lie in the folder above.
                Err(_) if root != dir && !is_numbered(dir) => continue,
                modules => modules?,
            };
            let mut found = SentenceModules::of_model(root, path)?;
            if let Some(module) = modules.first().filter(|module| is_transformer(module)) {
                let location = format!("modules.json: {}", printable(&module.path));
                found.transformer(root, module).map_err(|e| e.at(location))?;
                if root.components().chain(found.encoder.components()).eq(dir.components()) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The fields of the whole model in a folder, whose modules are in `path`.
    fn of_model(dir: &Path, path: PathBuf) -> Result<SentenceModules> {
        let mut found = SentenceModules { dir: dir.to_owned(), files: vec![path], ..SentenceModules::default() };
        let model = dir.join(model::MODEL);
        if presence::has_file(&model)? {
            found.model = json::read(&model)?;
            found.files.push(model);
        }
        Ok(found)
    }

    fn transformer(&mut self, dir: &Path, module: &Module) -> Result<()> {
        self.encoder = inside(&module.path)?.to_owned();
        let folder = dir.join(&self.encoder);
        let config = presence::first_file(TRANSFORMER_CONFIGS.iter().map(|name| folder.join(name)))?;
        if let Some(path) = config {
            let location = json::file_name(&path);
            self.encoder_config = EncoderConfig::of(json::read(&path)?).map_err(|e| e.at(location))?;
            self.files.push(path);
        }
        Ok(())
    }

    /// The model's modules and settings; none for a lone encoder without them. Fails where a
    /// module is not built, or the model is of a kind that is not.
    pub fn purpose(&self) -> Result<Option<Purpose>> {
        let other = self.modules.iter().find_map(|module| match &module.kind {
            ModuleKind::Other(class) => Some((module, class)),
            _ => None,
        });
        if let Some((module, class)) = other {
            return Err(not_built(&format!("the module `{}`", printable(class)), &module.path));
        }
        let task = self.encoder_config.task.as_deref();
        if self.encoder_config.messages.is_some() && self.logit_score().is_none() {
            return Err(Error::unsupported("texts as messages of a chat are not built")
                .at(format!("{}: modality_config", model::ENCODER)));
        }
        let scores =
            self.model.model_type.as_deref() == Some("CrossEncoder") || task == Some("sequence-classification");
        match (self.model.model_type.as_deref(), task, self.modules.first()) {
            (Some(kind), ..) if !["SentenceTransformer", "CrossEncoder"].contains(&kind) => {
                Err(Error::unsupported(format!("a model of the kind `{}` is not built", printable(kind)))
                    .at(format!("{}: model_type", model::MODEL))
                    .hint("known: SentenceTransformer, CrossEncoder"))
            }
            (_, Some(task), _) if !KNOWN_TASKS.contains(&task) => {
                Err(Error::unsupported(format!("the task `{}` is not built", printable(task)))
                    .at(format!("{}: transformer_task", model::ENCODER))
                    .hint(format!("known: {}", KNOWN_TASKS.join(", "))))
            }
            (_, Some(LANGUAGE_MODEL), _) if self.logit_score().is_some() => {
                self.encoder_config.check_output("logits", "causal_logits")?;
                Ok(Some(Purpose::Scores))
            }
            (_, Some(LANGUAGE_MODEL), _) => {
                Err(Error::unsupported("a language model without the module LogitScore alone after it is not built")
                    .at(format!("{}: transformer_task", model::ENCODER)))
            }
            (.., Some(SentenceModule { kind: ModuleKind::LogitScore(_), path })) => {
                Err(Error::bad_input("a LogitScore needs a language model")
                    .at(format!("modules.json: {}", printable(path)))
                    .hint(format!("transformer_task in {} has to be {LANGUAGE_MODEL}", model::ENCODER)))
            }
            (_, _, Some(module)) if scores => Err(not_built("a module after a classifier", &module.path)),
            (_, _, None) if scores => {
                self.encoder_config.check_output("logits", "scores")?;
                Ok(Some(Purpose::Scores))
            }
            (_, _, None) => Ok(None),
            (_, _, Some(_)) => {
                self.encoder_config.check_output("last_hidden_state", "token_embeddings")?;
                Ok(Some(Purpose::Vectors))
            }
        }
    }

    /// The one module of a reranker that is a language model.
    pub fn logit_score(&self) -> Option<&LogitScore> {
        match self.modules.as_slice() {
            [SentenceModule { kind: ModuleKind::LogitScore(score), .. }] => Some(score),
            _ => None,
        }
    }

    fn kind(&mut self, dir: &Path, module: &Module, class: Option<&str>) -> Result<ModuleKind> {
        let folder = dir.join(inside(&module.path)?);
        Ok(match class {
            Some("Pooling") => {
                let (modes, include_prompt) = pooling::read(&self.config(&folder)?)?;
                ModuleKind::Pooling { modes, include_prompt }
            }
            Some("Dense") => {
                self.tensors(&folder, &module.path)?;
                let dense: Dense = self.config(&folder)?;
                dense.check()?;
                ModuleKind::Dense(dense)
            }
            Some("LayerNorm") => {
                self.tensors(&folder, &module.path)?;
                let LayerNormConfig { dimension } = self.config(&folder)?;
                ModuleKind::LayerNorm { dimension }
            }
            Some("LogitScore") => {
                let score: LogitScore = self.config(&folder)?;
                score.check()?;
                ModuleKind::LogitScore(score)
            }
            Some("Normalize") => ModuleKind::Normalize,
            Some("Dropout") => ModuleKind::Dropout,
            _ => ModuleKind::Other(module.kind.clone()),
        })
    }

    fn config<T: DeserializeOwned>(&mut self, folder: &Path) -> Result<T> {
        let path = folder.join("config.json");
        let config = json::read(&path)?;
        self.files.push(path);
        Ok(config)
    }

    /// Adds the tensors of a module's folder below its path.
    fn tensors(&mut self, folder: &Path, path: &str) -> Result<()> {
        let (state, files) = read_state(folder)?;
        for (name, tensor) in state.iter() {
            let file = format!("{path}/{}", tensor.file).into();
            self.state.insert(format!("{path}.{name}"), Tensor { weight: tensor.weight.clone(), file });
        }
        self.files.extend(files);
        Ok(())
    }
}

fn not_built(what: &str, path: &str) -> Error {
    Error::unsupported(format!("{what} is not built"))
        .at(format!("modules.json: {}", printable(path)))
        .hint("--task feature-extraction builds the encoder alone")
}

/// A path below the checkpoint's folder, or the folder itself.
fn inside(path: &str) -> Result<&Path> {
    let relative = Path::new(path);
    match relative.components().all(|part| matches!(part, Component::Normal(_))) && !path.contains('\\') {
        true => Ok(relative),
        false => Err(Error::bad_input(format!("`{}` leads out of the checkpoint", printable(path)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: &str = r#"{"pooling_mode_mean_tokens": true}"#;

    /// The model of a folder with an encoder, a pooling, and a module of that class in the folder `2`.
    fn folder(class: &str, path: &str, pooling: &str, config: &str) -> Result<Vec<ModuleKind>> {
        let dir = tempfile::tempdir().unwrap();
        for (name, config) in [("1_Pooling", pooling), ("2", config)] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("config.json"), config).unwrap();
        }
        let kind = |class: &str, path: &str| format!(r#"{{"path": "{path}", "type": "{class}"}}"#);
        let [transformer, pooling] =
            ["Transformer", "Pooling"].map(|name| format!("sentence_transformers.models.{name}"));
        let modules = [kind(&transformer, ""), kind(&pooling, path), kind(class, "2")].join(",");
        std::fs::write(dir.path().join("modules.json"), format!("[{modules}]")).unwrap();
        Ok(read(dir.path())?.unwrap().modules.into_iter().map(|module| module.kind).collect())
    }

    fn refusal(class: &str, path: &str, pooling: &str, config: &str) -> String {
        folder(&format!("sentence_transformers.models.{class}"), path, pooling, config).unwrap_err().to_string()
    }

    #[test]
    fn modules_are_read_in_order_and_unknown_ones_keep_their_name() {
        let read = |class: &str| folder(class, "1_Pooling", MEAN, "{}").unwrap();
        let mean = ModuleKind::Pooling { modes: vec![Pooling::Mean], include_prompt: true };
        assert_eq!(read("sentence_transformers.models.Normalize"), [mean.clone(), ModuleKind::Normalize]);
        // A class of someone else's that is called like a known one is not that one.
        let other = |class: &str| ModuleKind::Other(class.to_owned());
        for class in
            ["custom_st.Normalize", "sentence_transformers.models.CNN", "sentence_transformers.models.Transformer"]
        {
            assert_eq!(read(class), [mean.clone(), other(class)]);
        }
    }

    #[test]
    fn modes_follow_each_other_as_in_sentence_transformers_and_the_mean_is_the_default() {
        let modes = |config: &str| match folder("x", "1_Pooling", config, "{}").unwrap().swap_remove(0) {
            ModuleKind::Pooling { modes, .. } => modes,
            other => panic!("{other:?}"),
        };
        assert_eq!(modes("{}"), [Pooling::Mean]);
        let both =
            r#"{"pooling_mode_lasttoken": true, "pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": false}"#;
        assert_eq!(modes(both), [Pooling::Max, Pooling::LastToken]);
    }

    #[test]
    fn errors_are_named_with_their_module() {
        assert_eq!(
            refusal("Normalize", "../1_Pooling", MEAN, "{}"),
            "`../1_Pooling` leads out of the checkpoint\n  in modules.json: ../1_Pooling"
        );
        assert_eq!(
            refusal("Normalize", "1_Pooling", r#"{"pooling_mode_mean_tokens": false}"#, "{}"),
            "no mode of pooling is set\n  in modules.json: 1_Pooling"
        );
        let dense =
            r#"{"in_features": 16, "out_features": 8, "activation_function": "torch.nn.modules.linear.Identity"}"#;
        let said = refusal("Dense", "1_Pooling", MEAN, dense);
        assert!(said.starts_with("neither model.safetensors nor pytorch_model.bin is there\n  in "), "{said}");
        assert!(said.ends_with("\n  in modules.json: 2"), "{said}");
    }
}
