//! `kilnc run`: answers texts with a bundle, or with an ONNX model and adapters.

mod jsonl;
mod model;
mod told;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Screen, VouchArgs, WindowArgs};
use crate::answer::{Aggregation, Answered, Answerer, Options, Settings, Similarity};
use crate::bundle::{Bundle, EngineEntry};
use crate::error::{Error, Result};
use crate::pipeline::Observer;
use crate::runtime::{self, TextInput};
use crate::settings;
use crate::task::Task;
use crate::textfile::Lines;

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
  echo \"one text on each line\" | kilnc run sections.kiln
  kilnc run sections.kiln --jsonl texts.jsonl -o answers.jsonl
  kilnc run sections.kiln --key release.pem.pub --text \"a mail server\"
  kilnc run base.onnx --onnx-adapter sections-lora.onnx_adapter --tokenizer checkpoint/tokenizer.json \\
      --labels labels.json --text \"chess engine\"

A text that is longer than the model reads is read in windows, and their answers are joined; docs/run.md says how.
Where a flag is not given, the settings of the bundle hold, which kilnc inspect shows under “answers”.")]
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
    #[command(flatten)]
    lines: jsonl::LinesArgs,
    /// What is to be done; the bundle's own task, if not given.
    #[arg(long, value_name = "TASK")]
    task: Option<Task>,
    #[command(flatten)]
    answers: AnswerArgs,
    /// Which of the bundle's engines; the fastest that runs here, if not given.
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Threads that the engine may use.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    vouch: VouchArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// How texts are cut and answers told; where nothing is given, as the bundle says, and else as the help does.
#[derive(Args)]
struct AnswerArgs {
    /// How many answers: labels, spans, or tokens for a mask.
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// How tokens become entities: none, simple, first, average, max; simple, if not given.
    #[arg(long, value_name = "HOW")]
    aggregation: Option<Aggregation>,
    /// Longest answer to a question, in tokens; 15, if not given.
    #[arg(long, value_name = "N")]
    max_answer_length: Option<usize>,
    /// Whether a question may have no answer; --no-answer=false where the bundle says that it may.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_answer: Option<bool>,
    /// How the vectors of a pair are compared: cosine, dot, euclidean, manhattan; the bundle's way, or cosine, if not
    /// given.
    #[arg(long, value_name = "HOW")]
    similarity: Option<Similarity>,
    #[command(flatten)]
    windows: WindowArgs,
    /// How many windows are run together; with --jsonl, as many as the engine was checked with, else 1, if not given.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
}

impl AnswerArgs {
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

    fn options(&self, batch: usize) -> Options {
        Options { settings: self.settings(), batch: self.batch.unwrap_or(batch) }
    }
}

/// A text that is asked, alone, as one of a pair, or with a question.
struct Asked {
    question: Option<String>,
    text: String,
    pair: Option<String>,
}

impl Asked {
    fn input(&self) -> TextInput<'_> {
        match &self.question {
            Some(question) => TextInput::question(question, &self.text),
            None => TextInput { text: &self.text, pair: self.pair.as_deref() },
        }
    }
}

/// The same with its answer.
#[derive(Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<String>,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pair: Option<String>,
    #[serde(flatten)]
    answered: Answered,
}

pub fn run(args: RunArgs, screen: &Screen) -> Result<()> {
    let threads = args.threads.map_or_else(runtime::Options::default, |threads| runtime::Options { threads });
    let claimed = args.lines.claim(&args.bundle)?;
    let fits = |task| args.check(task);
    crate::bundle::archive::refuse(&args.bundle)?;
    let mut model = match args.bundle.is_file() {
        true => {
            args.vouch.refuse()?;
            args.model.open(
                &args.bundle,
                args.task.unwrap_or(Task::TextClassification),
                threads,
                args.answers.options(1),
                &fits,
                screen,
            )?
        }
        false => {
            args.model.refuse()?;
            let bundle = Bundle::open(&args.bundle)?;
            args.vouch.check(&bundle, screen)?;
            let options = |entry: &EngineEntry| args.answers.options(if claimed.is_some() { entry.batch() } else { 1 });
            model::open_bundle(&bundle, args.engine.as_deref(), threads, &options, &fits, screen)?
        }
    };
    match claimed {
        Some(claimed) => claimed.answer(&mut model, screen),
        None => answer(args, &mut model, screen),
    }
}

impl RunArgs {
    /// Fails where something is asked for that the task does not have.
    fn check(&self, task: Task) -> Result<()> {
        if let Some(asked) = self.task.filter(|asked| *asked != task) {
            return Err(Error::bad_input(format!("the bundle is for {task}, not for {asked}"))
                .hint(format!("build one for it: kilnc build CHECKPOINT --task {asked} -o OUT")));
        }
        if let Some((field, of)) = self.answers.settings().misplaced(task) {
            return Err(settings::of_other_tasks(&settings::flag(field), of, task));
        }
        let given: [(&str, bool, &[Task]); 2] = [
            ("--question", !self.question.is_empty(), &[Task::QuestionAnswering]),
            ("--pair", !self.pair.is_empty(), &[Task::TextClassification, Task::SentenceSimilarity]),
        ];
        match given.into_iter().find(|(_, given, of)| *given && !of.contains(&task)) {
            None => Ok(()),
            Some((flag, _, of)) => Err(settings::of_other_tasks(flag, of, task)),
        }
    }
}

/// Answers the texts of the command line or of standard input.
fn answer(args: RunArgs, model: &mut Answerer, screen: &Screen) -> Result<()> {
    let texts = if args.text.is_empty() { read_lines()? } else { args.text };
    let asked = match args.question.is_empty() {
        true => paired(texts, args.pair)?,
        false => questions(args.question, texts)?,
    };
    let inputs: Vec<TextInput> = asked.iter().map(Asked::input).collect();
    let answers = model.answer_all(&inputs)?;
    tell_cut(&answers, model, screen);
    let lines = asked.into_iter().zip(answers);
    let lines = lines.map(|(Asked { question, text, pair }, answered)| Line { question, text, pair, answered });
    screen.result(&lines.collect::<Vec<_>>(), |lines| told::lines(lines))
}

/// Says aloud where a text was cut: what was cut off had no say in the answer.
fn tell_cut(answers: &[Answered], model: &Answerer, screen: &Screen) {
    let cut: Vec<usize> = answers.iter().map(|answered| answered.tokens_cut).filter(|cut| *cut > 0).collect();
    if !cut.is_empty() {
        let (texts, tokens, window) = (cut.len(), cut.iter().sum::<usize>(), model.lengths().window);
        screen.warn(&format!(
            "{texts} of {} texts cut to {window} tokens; {tokens} tokens had no say in the answers",
            answers.len()
        ));
    }
}

/// Each text with the second of its pair, or one text with each of the pairs.
fn paired(texts: Vec<String>, pairs: Vec<String>) -> Result<Vec<Asked>> {
    let asked = |(text, pair)| Asked { question: None, text, pair };
    match (texts.as_slice(), pairs.len()) {
        (_, 0) => Ok(texts.into_iter().map(|text| asked((text, None))).collect()),
        ([one], _) => Ok(pairs.into_iter().map(|pair| asked((one.clone(), Some(pair)))).collect()),
        (many, n) if many.len() == n => Ok(texts.into_iter().zip(pairs.into_iter().map(Some)).map(asked).collect()),
        (many, n) => Err(Error::bad_input(format!("{n} times --pair for {} texts", many.len()))
            .hint("give one --pair for each --text, or one --text for all")),
    }
}

/// Each question with its text, one question to all texts, or all questions to one text.
fn questions(questions: Vec<String>, texts: Vec<String>) -> Result<Vec<Asked>> {
    let asked = |(question, text)| Asked { question: Some(question), text, pair: None };
    match (questions.as_slice(), texts.as_slice()) {
        ([one], _) => Ok(texts.into_iter().map(|text| asked((one.clone(), text))).collect()),
        (_, [one]) => Ok(questions.into_iter().map(|question| asked((question, one.clone()))).collect()),
        (a, b) if a.len() == b.len() => Ok(questions.into_iter().zip(texts).map(asked).collect()),
        (a, b) => Err(Error::bad_input(format!("{} times --question for {} texts", a.len(), b.len()))
            .hint("give one --question for each --text, or one of either")),
    }
}

fn read_lines() -> Result<Vec<String>> {
    let (mut lines, mut texts) = (Lines::of(std::io::stdin()), Vec::new());
    while let Some((_, line)) = lines.read("standard input")? {
        texts.push(line);
    }
    match texts.is_empty() {
        true => Err(Error::bad_input("there is no text").hint("give --text \"…\", or lines on standard input")),
        false => Ok(texts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn pairs_go_with_their_text_or_all_with_one() {
        let found = |texts: &[&str], pairs: &[&str]| paired(owned(texts), owned(pairs)).map(|all| all.len());
        assert_eq!(found(&["a", "b"], &[]).unwrap(), 2);
        assert_eq!(found(&["a", "b"], &["c", "d"]).unwrap(), 2);
        assert_eq!(found(&["a"], &["b", "c", "d"]).unwrap(), 3);
        let error = found(&["a", "b"], &["c"]).unwrap_err();
        assert_eq!(error.message(), "1 times --pair for 2 texts");
    }

    #[test]
    fn questions_go_with_their_text_or_one_with_all() {
        let found = |asked: &[&str], texts: &[&str]| questions(owned(asked), owned(texts)).map(|all| all.len());
        assert_eq!(found(&["a", "b"], &["c", "d"]).unwrap(), 2);
        assert_eq!(found(&["a"], &["c", "d", "e"]).unwrap(), 3);
        assert_eq!(found(&["a", "b"], &["c"]).unwrap(), 2);
        let error = found(&["a", "b"], &["c", "d", "e"]).unwrap_err();
        assert_eq!(error.message(), "2 times --question for 3 texts");
    }
}
