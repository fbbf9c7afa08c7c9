//! `kilnc run --jsonl`: predictions for a file of texts, line by line.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::super::Screen;
use kilnc::build::Observer;
use kilnc::error::{Error, Result};
use kilnc::json::file_name;
use kilnc::output::{self, Stage};
use kilnc::presence;
use kilnc::task::Pipeline;
use kilnc::task::lines::{self, OnError, Summary};

#[derive(Args)]
pub(super) struct LinesArgs {
    /// Texts in a file, one JSON object on each line: `text`, `text_pair`, or `question` and `context`, `prompt`, or
    /// `messages`; `id` is given back. `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "pair", "question", "prompt", "chat"])]
    jsonl: Option<PathBuf>,
    /// Where the predictions of --jsonl go, one JSON object on each line; standard output by default.
    #[arg(short, long, value_name = "FILE", requires = "jsonl")]
    output: Option<PathBuf>,
    /// What happens to an invalid line of --jsonl: fail, no line is run; skip, it is left out; empty, its
    /// output is an error, so that lines correspond.
    #[arg(long, value_name = "HOW", requires = "jsonl", default_value_t)]
    on_error: OnError,
}

/// Texts, and the path of their predictions.
pub(super) struct Claimed {
    /// A file; none is standard input.
    input: Option<PathBuf>,
    output: Option<(PathBuf, Stage)>,
    on_error: OnError,
}

/// What was answered, as far as it is printed.
pub(super) trait Answered {
    /// How many texts.
    fn texts(&self) -> usize;

    /// For JSON.
    fn summary(&self) -> &impl Serialize;
}

impl Answered for Summary {
    fn texts(&self) -> usize {
        self.texts
    }

    fn summary(&self) -> &impl Serialize {
        self
    }
}

impl LinesArgs {
    /// Takes hold of the output, before any work is done. None where texts come from elsewhere.
    pub fn claim(&self, bundle: &Path) -> Result<Option<Claimed>> {
        let Some(input) = &self.jsonl else { return Ok(None) };
        let input = Some(input.clone()).filter(|path| path.as_os_str() != "-");
        if let Some(path) = &input {
            // Before anything is opened that takes its time.
            open(path)?;
        }
        let claim = |path: &PathBuf| -> Result<(PathBuf, Stage)> {
            output::check_disjoint(path, input.as_deref().into_iter().chain([bundle]))?;
            Ok((path.clone(), Stage::new(path, presence::is_file)?))
        };
        let output = self.output.as_ref().map(claim).transpose()?;
        Ok(Some(Claimed { input, output, on_error: self.on_error }))
    }
}

impl Claimed {
    /// What becomes of a line that cannot be answered.
    pub fn on_error(&self) -> OnError {
        self.on_error
    }

    /// Gives `answer` the lines, their name in messages and the place for its answers, which are put in place when all are
    /// there. None where whoever reads has read enough.
    pub fn write<T: Answered>(
        self,
        screen: &Screen,
        answer: impl FnOnce(Box<dyn Read>, &str, &mut dyn Write) -> Result<T>,
    ) -> Result<Option<T>> {
        let name = self.input.as_deref().map_or_else(|| "standard input".to_owned(), file_name);
        let from: Box<dyn Read> = match &self.input {
            Some(path) => Box::new(open(path)?),
            None => Box::new(io::stdin()),
        };
        match self.output {
            None => screen.results(|to| answer(from, &name, to)),
            Some((path, stage)) => {
                let answered = to_stage(&path, stage, |to| answer(from, &name, to))?;
                screen.result(&answered.summary(), |_| {
                    format!("{} predictions in {}\n", answered.texts(), path.display())
                })?;
                Ok(Some(answered))
            }
        }
    }

    /// Runs all texts. A file that can be read twice is checked as a whole before the first is run.
    pub fn run(self, model: &mut Pipeline, screen: &Screen) -> Result<()> {
        let name = self.input.as_deref().map_or_else(|| "standard input".to_owned(), file_name);
        match self.count(&name, model)? {
            Some(texts) => screen.begin_texts("running", texts),
            None => screen.begin_counting("running"),
        }
        let (advance, on_error) = (|texts| screen.advance(texts), self.on_error);
        let summary =
            self.write(screen, |from, name, to| lines::predict_lines(model, from, name, to, on_error, &advance))?;
        if let Some(Summary { texts, in_windows, cut, failed, first_failure }) = summary {
            screen.done(&format!("{texts} texts done, {in_windows} of them in windows"));
            if let Some(first) = first_failure {
                let what = if on_error == OnError::Skip { "left out" } else { "have an error as output" };
                screen.warn(&format!("{failed} lines {what}; the first: {first}"));
            }
            if cut > 0 {
                let window = model.lengths().window;
                screen.warn(&format!("{cut} of {texts} texts cut to {window} tokens; the rest had no say"));
            }
        }
        Ok(())
    }

    /// How many texts there are, where that can be known before they are run.
    fn count(&self, name: &str, model: &Pipeline) -> Result<Option<u64>> {
        match &self.input {
            Some(path) if presence::is_file(path)? => {
                lines::check_lines(open(path)?, name, model.task(), self.on_error).map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io("reading", path, &e))
}

/// Renames the output when all of it is there.
fn to_stage<T>(path: &Path, stage: Stage, predict: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let (name, failed) = (file_name(path), |e: io::Error| Error::io("writing", path, &e));
    let mut to = BufWriter::new(File::create(stage.path(&name)).map_err(failed)?);
    let summary = predict(&mut to)?;
    to.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)?;
    stage.commit_files(&[&name])?;
    Ok(summary)
}
