//! `kilnc run`: answers texts with a bundle, or with an ONNX model and adapters.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::Screen;
use crate::bundle::{self, Bundle};
use crate::checkpoint::json;
use crate::error::{Error, Result, printable};
use crate::runtime::{self, Answer, Choice, Classes, Engine, Options, Reading, Runtime, TextEncoder, TextInput};
use crate::task::Task;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc run sections.kiln --text \"a mail server with spam filtering\"
  kilnc run sections.kiln --text \"chess engine\" --text \"font editor\" --engine tract-fp32 --json
  kilnc run reranker.kiln --text \"how tall is it?\" --pair \"It is 3 m high.\" --pair \"It is red.\"
  echo \"one text on each line\" | kilnc run sections.kiln
  kilnc run base.onnx --onnx-adapter sections-lora.onnx_adapter --tokenizer checkpoint/tokenizer.json \\
      --labels labels.json --text \"chess engine\"")]
pub struct RunArgs {
    /// The bundle; or an ONNX model, with --tokenizer and --labels.
    bundle: PathBuf,
    /// A text; without any, one from each line of standard input.
    #[arg(long, value_name = "TEXT")]
    text: Vec<String>,
    /// The second text of a pair: one for each text, or any number for one text.
    #[arg(long, value_name = "TEXT")]
    pair: Vec<String>,
    /// Which of the bundle's engines; the fastest that runs here, if not given.
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Threads that the engine may use.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    model: ModelArgs,
}

/// What a bundle has and an ONNX model has not.
#[derive(Args)]
struct ModelArgs {
    /// An ONNX model's tokenizer: the tokenizer.json of its checkpoint.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// A JSON list with one label for each answer of an ONNX model.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// An adapter that is active in an ONNX model, a file that `kilnc export --adapter-as-input` wrote.
    #[arg(long, value_name = "FILE")]
    onnx_adapter: Vec<PathBuf>,
    /// Longest text that an ONNX model is given, in tokens.
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
}

/// Longest text in tokens where nobody says: what BERT and most after it have positions for.
const MAX_LENGTH: usize = 512;

impl ModelArgs {
    /// Opens an ONNX model with what the arguments give it.
    fn open(&self, model: &Path, options: Options) -> Result<Classifier> {
        let needed =
            |flag: &str| Error::bad_input(format!("an ONNX model needs {flag}")).hint("a bundle has it inside");
        let tokenizer = self.tokenizer.as_deref().ok_or_else(|| needed("--tokenizer"))?;
        let labels = self.labels.as_deref().ok_or_else(|| needed("--labels"))?;
        Ok(Classifier {
            engine: runtime::open_apart(Runtime::Ort, model, options, &self.onnx_adapter)?,
            encoder: TextEncoder::open(tokenizer, self.max_length.unwrap_or(MAX_LENGTH))?,
            classes: classes(json::read(labels)?),
        })
    }

    /// A bundle takes none of them.
    fn refuse(&self) -> Result<()> {
        let given = [
            ("--tokenizer", self.tokenizer.is_some()),
            ("--labels", self.labels.is_some()),
            ("--onnx-adapter", !self.onnx_adapter.is_empty()),
            ("--max-length", self.max_length.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((flag, _)) => Err(Error::bad_input(format!("{flag} is for an ONNX model, not for a bundle"))),
        }
    }
}

/// Of a model that says nothing of its answers: a single one is a score.
fn classes(labels: Vec<String>) -> Classes {
    let reading = if labels.len() == 1 { Reading::Score } else { Reading::OneLabel };
    Classes { labels, reading }
}

/// A bundle's engine, opened with what it needs to answer.
pub(super) struct Classifier {
    pub engine: Box<dyn Engine>,
    pub encoder: TextEncoder,
    pub classes: Classes,
}

impl Classifier {
    /// Opens an engine of a bundle whose files are what the manifest says, and tells the choice.
    pub fn open(path: &Path, engine: Option<&str>, options: Options, screen: &Screen) -> Result<Classifier> {
        let bundle = Bundle::open(path)?;
        let manifest = &bundle.manifest;
        if manifest.task != Task::TextClassification {
            return Err(Error::unsupported(format!(
                "answering is built for text-classification; this bundle is for {}",
                manifest.task
            )));
        }
        let (entry, why) = bundle.choose(engine)?;
        if engine.is_none() {
            screen.note(format!("engine {} on {}, {why}", entry.name, entry.runtime));
        }
        Ok(Classifier {
            engine: runtime::open_apart(entry.runtime, &bundle.engine(entry)?, options, &[])?,
            encoder: TextEncoder::open(&bundle.file(bundle::TOKENIZER)?, manifest.max_length)?,
            classes: bundle.classes(),
        })
    }

    /// The logits of one text.
    pub fn logits(&mut self, input: TextInput) -> Result<Vec<f32>> {
        let rows = runtime::logits(&mut *self.engine, &self.encoder, &[input])?;
        rows.into_iter().next().ok_or_else(|| Error::bug("a text was not answered"))
    }
}

#[derive(Serialize)]
struct Line {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pair: Option<String>,
    #[serde(flatten)]
    answer: Answer,
}

pub fn run(args: RunArgs, screen: &Screen) -> Result<()> {
    bundle::archive::refuse(&args.bundle)?;
    let options = args.threads.map_or_else(Options::default, |threads| Options { threads });
    let mut classifier = match args.bundle.is_file() {
        true => args.model.open(&args.bundle, options)?,
        false => {
            args.model.refuse()?;
            Classifier::open(&args.bundle, args.engine.as_deref(), options, screen)?
        }
    };
    let texts = if args.text.is_empty() { read_lines()? } else { args.text };
    let mut lines = Vec::with_capacity(texts.len());
    for (text, pair) in paired(texts, args.pair)? {
        if text.trim().is_empty() || pair.as_ref().is_some_and(|pair| pair.trim().is_empty()) {
            return Err(Error::bad_input("a text is empty"));
        }
        let logits = classifier.logits(TextInput { text: &text, pair: pair.as_deref() })?;
        lines.push(Line { answer: classifier.classes.read(&logits)?, text, pair });
    }
    screen.result(&lines, |lines| {
        let label = |answer: &Answer| match answer {
            Answer::Label(one) => one.label.chars().count(),
            _ => 0,
        };
        let longest = lines.iter().map(|line| label(&line.answer)).max().unwrap_or(0);
        let answers: Vec<String> = lines.iter().map(|line| told(&line.answer, longest)).collect();
        let width = answers.iter().map(|answer| answer.chars().count()).max().unwrap_or(0);
        let line = |(line, answer): (&Line, &String)| {
            let pair = line.pair.as_ref().map(|pair| format!("  ·  {}", shortened(pair))).unwrap_or_default();
            format!("{answer:width$}  {}{pair}\n", shortened(&line.text))
        };
        lines.iter().zip(&answers).map(line).collect()
    })
}

/// Each text with the second of its pair, or one text with each of the pairs.
fn paired(texts: Vec<String>, pairs: Vec<String>) -> Result<Vec<(String, Option<String>)>> {
    match (texts.as_slice(), pairs.len()) {
        (_, 0) => Ok(texts.into_iter().map(|text| (text, None)).collect()),
        ([one], _) => Ok(pairs.into_iter().map(|pair| (one.clone(), Some(pair))).collect()),
        (many, n) if many.len() == n => Ok(texts.into_iter().zip(pairs.into_iter().map(Some)).collect()),
        (many, n) => Err(Error::bad_input(format!("{n} times --pair for {} texts", many.len()))
            .hint("give one --pair for each --text, or one --text for all")),
    }
}

/// An answer in words, with room for a label of that length where there is one.
fn told(answer: &Answer, longest: usize) -> String {
    let choice = |Choice { label, score, .. }: &Choice| format!("{} {score:.3}", printable(label));
    match answer {
        Answer::Label(Choice { label, score, .. }) => format!("{:longest$}  {score:.3}", printable(label)),
        Answer::Labels { labels, .. } if labels.is_empty() => "none".to_owned(),
        Answer::Labels { labels, .. } => labels.iter().map(choice).collect::<Vec<_>>().join(", "),
        Answer::Numbers { numbers } => numbers.iter().map(|n| format!("{n:.4}")).collect::<Vec<_>>().join(", "),
        Answer::Score { score } => format!("{score:.4}"),
    }
}

fn read_lines() -> Result<Vec<String>> {
    let text =
        std::io::read_to_string(std::io::stdin()).map_err(|e| Error::bad_input(format!("standard input: {e}")))?;
    let lines: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    match lines.is_empty() {
        true => Err(Error::bad_input("there is no text").hint("give --text \"…\", or lines on standard input")),
        false => Ok(lines),
    }
}

fn shortened(text: &str) -> String {
    let short = printable(text);
    if short.chars().count() <= 80 { short } else { short.chars().take(79).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_go_with_their_text_or_all_with_one() {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let found = |texts: &[&str], pairs: &[&str]| paired(owned(texts), owned(pairs)).map(|all| all.len());
        assert_eq!(found(&["a", "b"], &[]).unwrap(), 2);
        assert_eq!(found(&["a", "b"], &["c", "d"]).unwrap(), 2);
        assert_eq!(found(&["a"], &["b", "c", "d"]).unwrap(), 3);
        assert_eq!(found(&["a", "b"], &["c"]).unwrap_err().message(), "1 times --pair for 2 texts");
    }
}
