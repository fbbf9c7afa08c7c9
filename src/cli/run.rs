//! `kilnc run`: answers texts with a bundle.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Screen;
use crate::bundle::{self, Bundle};
use crate::error::{Error, Result};
use crate::runtime::{self, Answer, Engine, Options, TextEncoder, classify};
use crate::task::Task;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc run sections.kiln --text \"a mail server with spam filtering\"
  kilnc run sections.kiln --text \"chess engine\" --text \"font editor\" --engine tract-fp32 --json
  echo \"one text on each line\" | kilnc run sections.kiln")]
pub struct RunArgs {
    /// The bundle.
    bundle: PathBuf,
    /// A text; without any, one from each line of standard input.
    #[arg(long, value_name = "TEXT")]
    text: Vec<String>,
    /// Which of the bundle's engines; the fastest that runs here, if not given.
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Threads that the engine may use.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// A bundle's engine, opened with what it needs to answer.
pub(super) struct Classifier {
    pub engine: Box<dyn Engine>,
    pub encoder: TextEncoder,
    pub labels: Vec<String>,
    pub name: String,
}

impl Classifier {
    /// Opens an engine of a bundle whose files are what the manifest says, and tells the choice.
    pub fn open(path: &std::path::Path, engine: Option<&str>, options: Options, screen: &Screen) -> Result<Classifier> {
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
            engine: runtime::open_apart(entry.runtime, &bundle.file(&entry.file)?, options)?,
            encoder: TextEncoder::open(&bundle.file(bundle::TOKENIZER)?, manifest.max_length)?,
            labels: manifest.labels.clone(),
            name: entry.name.clone(),
        })
    }

    /// Answers one text.
    pub fn answer(&mut self, text: &str) -> Result<Answer> {
        let answers = classify(&mut *self.engine, &self.encoder, &self.labels, &[text])?;
        answers.into_iter().next().ok_or_else(|| Error::bug("a text was not answered"))
    }
}

#[derive(Serialize)]
struct Line {
    text: String,
    #[serde(flatten)]
    answer: Answer,
}

pub fn run(args: RunArgs, screen: &Screen) -> Result<()> {
    let options = args.threads.map_or_else(Options::default, |threads| Options { threads });
    let mut classifier = Classifier::open(&args.bundle, args.engine.as_deref(), options, screen)?;
    let texts = if args.text.is_empty() { read_lines()? } else { args.text };
    let mut lines = Vec::with_capacity(texts.len());
    for text in texts {
        if text.trim().is_empty() {
            return Err(Error::bad_input("a text is empty"));
        }
        let answer = classifier.answer(&text)?;
        lines.push(Line { text, answer });
    }
    screen.result(&lines, |lines| {
        let width = lines.iter().map(|line| line.answer.label.chars().count()).max().unwrap_or(0);
        let line = |line: &Line| {
            format!("{:width$}  {:.3}  {}\n", line.answer.label, line.answer.score, shortened(&line.text))
        };
        lines.iter().map(line).collect()
    })
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
    let short = crate::error::printable(text);
    if short.chars().count() <= 80 { short } else { short.chars().take(79).chain(['…']).collect() }
}
