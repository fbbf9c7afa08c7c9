//! `kilnc run`: runs texts through a bundle, or through an ONNX model with adapters.

mod chat;
mod continued;
mod generation;
mod jsonl;
mod model;
mod prompts;
mod summary;
mod texts;

use std::path::PathBuf;

use clap::Args;

use super::units::{batch, some, threads};
use super::{Screen, TrustArgs, WindowArgs};
use kilnc::bundle::{Bundle, EngineEntry};
use kilnc::error::{Error, Result};
use kilnc::presence;
use kilnc::runtime;
use kilnc::runtime::chat::ChatTemplates;
use kilnc::runtime::generate::Generator;
use kilnc::settings;
use kilnc::task::Task;
use kilnc::task::id::Input;
use kilnc::task::{Aggregation, Pipeline, PipelineOptions, Settings, Similarity};

use model::ModelArgs;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc run sections.kiln --text \"a mail server with spam filtering\"
  kilnc run sections.kiln --text \"chess engine\" --text \"font editor\" --engine tract-fp32 --top-k 3 --json
  kilnc run reranker.kiln --text \"how tall is it?\" --pair \"It is 3 m high.\" --pair \"It is red.\"
  kilnc run squad.kiln --question \"how tall is it?\" --text \"The tower is 3 m high.\" --top-k 2
  kilnc run ner.kiln --text \"Angela Merkel was born in Hamburg\" --aggregation first
  kilnc run bert.kiln --text \"the [MASK] is slow\"
  kilnc run qwen3-embedding.kiln --text \"how kilns are fired\" --prompt-name query
  kilnc run gpt2.kiln --prompt \"Once upon a time\" --max-new-tokens 50 --stop \"The end\"
  kilnc run gpt2.kiln --prompt \"The kiln is\" --prompt \"The clay was\" --json
  kilnc run gpt2.kiln --prompt \"Once\" --temperature 0.8 --top-p 0.95 --seed 7
  kilnc run gpt2.kiln --prompt \"Once\" --num-beams 4 --no-repeat-ngram-size 3
  kilnc run llama.kiln --prompt \"A kiln: \" --json-schema kiln.schema.json
  kilnc run llama.kiln --chat messages.json --system \"Answer in one sentence.\"
  echo \"one text on each line\" | kilnc run sections.kiln
  kilnc run sections.kiln --jsonl texts.jsonl -o predictions.jsonl
  kilnc run sections.kiln --key release.pem.pub --text \"a mail server\"
  kilnc run base.onnx --onnx-adapter sections-lora.onnx_adapter --tokenizer checkpoint/tokenizer.json \\
      --labels labels.json --text \"chess engine\"

A text that is longer than the model reads is read in windows, and their predictions are joined; docs/run.md says how.
The defaults of flags are the bundle's settings, which kilnc inspect shows under “pipeline”.")]
pub struct RunArgs {
    /// The bundle; or an ONNX model, with --tokenizer and --labels.
    bundle: PathBuf,
    /// A text; without any, one from each line of standard input.
    #[arg(long, value_name = "TEXT")]
    text: Vec<String>,
    /// The second text of a pair: one for each text, or any number for one text.
    #[arg(long, value_name = "TEXT", conflicts_with = "question")]
    pair: Vec<String>,
    /// A question to a text: one for each text, one for all, or any number for one text.
    #[arg(long, value_name = "TEXT")]
    question: Vec<String>,
    /// A text that is to be continued; without any, one from each line of standard input.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["text", "pair", "question"])]
    prompt: Vec<String>,
    /// Which of the model's prompts is put before every text, as models for retrieval have one for queries and one for
    /// documents; kilnc inspect lists them.
    #[arg(long, value_name = "NAME")]
    prompt_name: Option<String>,
    #[command(flatten)]
    chat: chat::ChatArgs,
    #[command(flatten)]
    lines: jsonl::LinesArgs,
    #[command(flatten)]
    generate: generation::GenerateArgs,
    /// The task; the bundle's own by default.
    #[arg(long, value_name = "TASK")]
    task: Option<Task>,
    #[command(flatten)]
    predictions: PredictionArgs,
    /// Which of the bundle's engines; the fastest that runs here by default.
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Threads that the engine may use.
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// Settings of windows and predictions; the bundle's by default, else those of the help.
#[derive(Args)]
struct PredictionArgs {
    /// How many predictions: labels, spans, or tokens for a mask; of how many likeliest tokens the next one is drawn.
    #[arg(long, value_name = "N", value_parser = some)]
    top_k: Option<usize>,
    /// How tokens become entities: none, simple, first, average, max; simple by default.
    #[arg(long, value_name = "HOW")]
    aggregation: Option<Aggregation>,
    /// Longest answer to a question, in tokens; 15 by default.
    #[arg(long, value_name = "N", value_parser = some)]
    max_answer_length: Option<usize>,
    /// Whether a question may have no answer; --no-answer=false where the bundle allows it.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_answer: Option<bool>,
    /// How the vectors of a pair are compared: cosine, dot, euclidean, manhattan; the bundle's way, or cosine by
    /// default.
    #[arg(long, value_name = "HOW")]
    similarity: Option<Similarity>,
    #[command(flatten)]
    windows: WindowArgs,
    /// How many windows or prompts are run together; with --jsonl, as many as the engine was checked with, else 1 by default.
    #[arg(long, value_name = "N", value_parser = batch)]
    batch: Option<usize>,
}

impl PredictionArgs {
    fn settings(&self) -> Settings {
        Settings {
            top_k: self.top_k,
            aggregation: self.aggregation,
            max_answer_length: self.max_answer_length,
            no_answer: self.no_answer,
            similarity: self.similarity,
            ..self.windows.settings()
        }
    }

    fn options(&self, batch: usize) -> PipelineOptions {
        PipelineOptions { settings: self.settings(), batch: self.batch.unwrap_or(batch) }
    }
}

pub fn run(args: RunArgs, screen: &Screen) -> Result<()> {
    let threads = args.threads.map_or_else(runtime::Options::default, |threads| runtime::Options { threads });
    let claimed = args.lines.claim(&args.bundle)?;
    let chats = args.chat.read()?;
    let schema = args.generate.schema(screen)?;
    // Which templates there are is an error only where a chat needs one.
    let with_chats = args.chat.given() || claimed.is_some();
    let fits = |task| args.check(task);
    kilnc::bundle::archive::refuse(&args.bundle)?;
    kilnc::front::source::refuse(&args.bundle)?;
    let model = match presence::is_file(&args.bundle)? {
        true => {
            args.trust.refuse()?;
            if args.prompt_name.is_some() {
                return Err(Error::bad_input("--prompt-name is for bundles: an ONNX file has no prompts"));
            }
            let continues = !args.prompt.is_empty() || args.chat.given();
            let default = if continues { Task::TextGeneration } else { Task::TextClassification };
            let task = args.task.unwrap_or(default);
            match task.generates() {
                true => {
                    let generator = args.model.open_generator(&args.bundle, threads, &fits, screen)?;
                    let templates = if with_chats { args.model.chat_templates() } else { Ok(ChatTemplates::default()) };
                    Model::Generator(Box::new(generator), args.predictions.batch.unwrap_or(1), templates)
                }
                false => {
                    let options = args.predictions.options(1);
                    Model::Pipeline(Box::new(args.model.open(&args.bundle, task, threads, options, &fits, screen)?))
                }
            }
        }
        false => {
            args.model.refuse()?;
            let options =
                |entry: &EngineEntry| args.predictions.options(if claimed.is_some() { entry.batch() } else { 1 });
            Bundle::used(&args.bundle, |bundle| {
                args.model.refuse_length(bundle.manifest.task)?;
                args.trust.check(bundle, screen)?;
                let engine = args.engine.as_deref();
                if bundle.manifest.task.generates() {
                    let (generator, batch) = model::open_generator(bundle, engine, threads, &fits, screen)?;
                    let templates = if with_chats { bundle.chat_templates() } else { Ok(ChatTemplates::default()) };
                    return Ok(Model::Generator(
                        Box::new(generator),
                        args.predictions.batch.unwrap_or(batch),
                        templates,
                    ));
                }
                let pipeline = model::open_bundle(bundle, engine, threads, &options, &fits, screen)?;
                Ok(Model::Pipeline(Box::new(match &args.prompt_name {
                    Some(name) => pipeline.with_prompt(bundle.prompt_named(name)?),
                    None => pipeline,
                })))
            })?
        }
    };
    match (model, claimed) {
        (Model::Pipeline(mut model), Some(claimed)) => claimed.run(&mut model, screen),
        (Model::Pipeline(mut model), None) => texts::run(args.text, args.pair, args.question, &mut model, screen),
        (Model::Generator(generator, batch, templates), claimed) => {
            let options = args.generate.options(args.predictions.top_k, args.model.max_length, schema)?;
            let prompted = prompts::Prompted { generator: *generator, templates, args: &args.generate, options, batch };
            match claimed {
                Some(claimed) => prompted.answer_lines(claimed, screen),
                None => prompted.answer(args.prompt, chats, screen),
            }
        }
    }
}

/// What answers.
enum Model {
    Pipeline(Box<Pipeline>),
    /// With how many prompts are read together, and the chat templates.
    Generator(Box<Generator>, usize, Result<ChatTemplates>),
}

impl RunArgs {
    /// Fails where an option does not belong to the task.
    fn check(&self, task: Task) -> Result<()> {
        // What is read in windows, whatever it is.
        const READING: &[Input] = &[Input::Text, Input::TextOrPair, Input::TextOrTwo, Input::Question];
        if let Some(asked) = self.task.filter(|asked| *asked != task) {
            return Err(Error::bad_input(format!("the bundle is for {task}, not for {asked}"))
                .hint(format!("build one for it: kilnc build CHECKPOINT --task {asked} -o OUT")));
        }
        let mut settings = self.predictions.settings();
        if task.facts().input == Input::Prompt {
            settings.top_k = None;
        }
        if let Some((field, of)) = settings.misplaced(task) {
            return Err(settings::of_other_tasks(&settings::flag(field), &of, task));
        }
        let windows = self.predictions.settings();
        let given: [(&str, bool, &[Input]); 9] = [
            ("--question", !self.question.is_empty(), &[Input::Question]),
            ("--pair", !self.pair.is_empty(), &[Input::TextOrPair, Input::TextOrTwo]),
            ("--text", !self.text.is_empty(), READING),
            ("--prompt-name", self.prompt_name.is_some(), READING),
            ("--window", windows.window.is_some(), READING),
            ("--stride", windows.stride.is_some(), READING),
            ("--truncate", windows.truncate.is_some(), READING),
            ("--prompt", !self.prompt.is_empty(), &[Input::Prompt]),
            ("--chat", self.chat.given(), &[Input::Prompt]),
        ];
        let generation = self.generate.given().map(|(flag, given)| (flag, given, &[Input::Prompt][..]));
        let takes = |of: &[Input], task: Task| of.contains(&task.facts().input);
        match given.into_iter().chain(generation).find(|(_, given, of)| *given && !takes(of, task)) {
            None => Ok(()),
            Some((flag, _, of)) => {
                let error = settings::of_other_tasks(flag, &Task::all_with(|task| takes(of, task)), task);
                Err(if flag == "--text" { error.hint("--prompt \"…\" is what it continues") } else { error })
            }
        }
    }
}
