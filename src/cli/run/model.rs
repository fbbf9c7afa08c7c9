//! The pipeline: an engine of a bundle, or an ONNX model with the files that a bundle holds.

use std::path::{Path, PathBuf};

use clap::Args;

use super::super::units::length;
use super::super::{LoneTokenizer, Screen};
use kilnc::build::Observer;
use kilnc::bundle::{Bundle, EngineEntry};
use kilnc::error::{Error, Result, printable};
use kilnc::front::hub::checkpoint::{GenerationConfig, labels};
use kilnc::presence;
use kilnc::runtime::chat::ChatTemplates;
use kilnc::runtime::generate::Generator;
use kilnc::runtime::{self, Classes, ProblemType, Runtime};
use kilnc::task::{self, Model, Pipeline, PipelineOptions, Task};

/// Fails where an option does not belong to the task.
pub(super) type Fits<'a> = &'a dyn Fn(Task) -> Result<()>;

/// Opens an engine of a bundle whose files are those of the manifest, and reports the choice.
pub(super) fn open_bundle(
    bundle: &Bundle,
    engine: Option<&str>,
    threads: runtime::Options,
    options: &dyn Fn(&EngineEntry) -> PipelineOptions,
    fits: Fits,
    screen: &Screen,
) -> Result<Pipeline> {
    fits(bundle.manifest.task)?;
    let entry = chosen(bundle, engine, screen)?;
    let options = options(entry);
    if options.batch > 1 && entry.batch() == 1 {
        screen.warn(&format!(
            "{} finds the ranges of its activations in each batch, and was checked with one text at a time: in batches \
             of {} a prediction depends on the other texts",
            entry.name, options.batch
        ));
    }
    Pipeline::open(bundle, entry, threads, options)
}

/// Opens an engine of a bundle that continues prompts, with its default batch size.
pub(super) fn open_generator(
    bundle: &Bundle,
    engine: Option<&str>,
    threads: runtime::Options,
    fits: Fits,
    screen: &Screen,
) -> Result<(Generator, usize)> {
    fits(bundle.manifest.task)?;
    let entry = chosen(bundle, engine, screen)?;
    if let Some(what) = bundle.manifest.generation.as_ref().and_then(task::not_applied) {
        screen.warn(&what);
    }
    Ok((task::open_generator(bundle, entry, threads)?, entry.batch()))
}

/// Chooses an engine, and says what there is to know of it.
fn chosen<'a>(bundle: &'a Bundle, engine: Option<&str>, screen: &Screen) -> Result<&'a EngineEntry> {
    let (entry, why) = bundle.choose(engine)?;
    if engine.is_none() {
        screen.note(format!("engine {} on {}, {why}", entry.name, entry.runtime));
    }
    if !entry.is_checked() {
        let why = entry.gates.iter().map(|gate| gate.ran_by.as_str()).collect::<Vec<_>>().join("; ");
        screen.warn(&format!("{} was never checked: {}", entry.name, printable(&why)));
    }
    if let Some(why) = Bundle::other_arithmetic(entry) {
        screen.warn(&format!(
            "{}: this processor {why}; predictions may differ from those that were checked",
            entry.name
        ));
    }
    Ok(entry)
}

/// The files and settings that an ONNX model lacks.
#[derive(Args)]
pub(super) struct ModelArgs {
    /// An ONNX model's tokenizer: the tokenizer.json of its checkpoint, or the folder that holds it.
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// The labels of an ONNX model: a JSON list, an object as id2label or label2id, a config.json, or a text file
    /// with a label on each line.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// An adapter that is active in an ONNX model, a file that `kilnc export --adapter-as-input` wrote.
    #[arg(long, value_name = "FILE")]
    onnx_adapter: Vec<PathBuf>,
    /// Longest text of an ONNX model, in tokens; of generation, most tokens of a prompt and what comes after it.
    #[arg(long, value_name = "N", value_parser = length)]
    pub max_length: Option<usize>,
}

impl ModelArgs {
    /// Opens an ONNX model with the files and settings of the arguments.
    pub fn open(
        &self,
        model: &Path,
        task: Task,
        threads: runtime::Options,
        options: PipelineOptions,
        fits: Fits,
        screen: &Screen,
    ) -> Result<Pipeline> {
        let tokenizer = self.tokenizer()?;
        let classes = match &self.labels {
            Some(path) => classes(labels::read(path)?),
            None if task.has_labels() => return Err(needed("--labels")),
            None => Classes::default(),
        };
        fits(task)?;
        let given = LoneTokenizer::read(tokenizer, Some(task), screen)?;
        let encoder = given.encoder(self.max_length.unwrap_or(given.max_length()), Some(task))?;
        encoder.check_longest()?;
        let engine = runtime::open_isolated(Runtime::Ort, model, threads, &self.onnx_adapter)?;
        let options = PipelineOptions { settings: options.settings.over(given.settings()), ..options };
        Pipeline::new(engine, encoder, Model { context_first: given.pads_left(), ..Model::new(task, classes) }, options)
    }

    /// Opens an ONNX model that continues prompts. Its tokens with a meaning and how it chooses the next ones are those of
    /// the files beside its tokenizer, `generation_config.json` and `config.json`.
    pub fn open_generator(
        &self,
        model: &Path,
        threads: runtime::Options,
        fits: Fits,
        screen: &Screen,
    ) -> Result<Generator> {
        fits(Task::TextGeneration)?;
        if self.labels.is_some() {
            return Err(Error::unsupported(format!("--labels is not for {}", Task::TextGeneration)));
        }
        let given = LoneTokenizer::read(self.tokenizer()?, Some(Task::TextGeneration), screen)?;
        let beside = given.file.parent().unwrap_or(Path::new(""));
        let generation = GenerationConfig::beside(beside)?;
        if generation.eos.is_empty() {
            screen.warn(&format!(
                "no file beside {} says which token ends a text: only --max-new-tokens and --stop end it",
                given.file.display()
            ));
        }
        if let Some(what) = task::not_applied(&generation) {
            screen.warn(&what);
        }
        let encoder = given.encoder(generation.positions.unwrap_or(usize::MAX), Some(Task::TextGeneration))?;
        task::generator_of((Runtime::Ort, model, &self.onnx_adapter), threads, encoder, (generation, None))
    }

    /// The chat templates beside the tokenizer of an ONNX model.
    pub fn chat_templates(&self) -> Result<ChatTemplates> {
        let tokenizer = self.tokenizer()?;
        let dir = if presence::is_dir(tokenizer)? { tokenizer } else { tokenizer.parent().unwrap_or(Path::new("")) };
        kilnc::bundle::chat_templates(dir)
    }

    fn tokenizer(&self) -> Result<&Path> {
        self.tokenizer.as_deref().ok_or_else(|| needed("--tokenizer"))
    }

    fn adapted(&self) -> bool {
        !self.onnx_adapter.is_empty()
    }

    /// A bundle takes none of them, but for the longest text.
    pub fn refuse(&self) -> Result<()> {
        let given = [
            ("--tokenizer", self.tokenizer.is_some()),
            ("--labels", self.labels.is_some()),
            ("--onnx-adapter", self.adapted()),
        ];
        given.iter().find(|(_, given)| *given).map_or(Ok(()), |(flag, _)| Err(not_for_a_bundle(flag)))
    }

    /// Nor that, where it does not generate.
    pub fn refuse_length(&self, task: Task) -> Result<()> {
        match self.max_length.is_some() && !task.generates() {
            true => Err(not_for_a_bundle("--max-length").hint("--window says how much is read at once")),
            false => Ok(()),
        }
    }
}

fn not_for_a_bundle(flag: &str) -> Error {
    Error::bad_input(format!("{flag} is for an ONNX model, not for a bundle"))
}

fn needed(flag: &str) -> Error {
    Error::bad_input(format!("an ONNX model needs {flag}")).hint("a bundle has it inside")
}

/// The problem type of a model that does not state it: a single logit is a score.
fn classes(labels: Vec<String>) -> Classes {
    let problem_type = if labels.len() == 1 { ProblemType::Score } else { ProblemType::SingleLabel };
    Classes { labels, problem_type }
}
