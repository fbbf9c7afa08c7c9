//! `kilnc eval`: scores a bundle on labelled texts.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Screen;
use super::run::Classifier;
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::eval::read_examples;
use crate::pipeline::Observer;
use crate::runtime::{self, Options};

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc eval sections.kiln --data sections-eval.jsonl
  kilnc eval sections.kiln --data sections-eval.jsonl --engine ort-cpu-int8 --json

Each line of the data is an object such as {\"text\": \"…\", \"label\": \"…\"}. Every engine of the bundle that can
run here is scored, one text at a time; “same answer” is against the first.")]
pub struct EvalArgs {
    /// The bundle.
    bundle: PathBuf,
    /// Labelled texts, one JSON object on each line.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Which of the bundle's engines; all that run here, if not given.
    #[arg(long, value_name = "NAME")]
    engine: Vec<String>,
}

#[derive(Serialize)]
struct Score {
    engine: String,
    texts: usize,
    right: usize,
    accuracy: f64,
    same_answer: f64,
    texts_per_second: f64,
}

pub fn run(args: EvalArgs, screen: &Screen) -> Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    let examples = read_examples(&args.data, &bundle.manifest.labels)?;
    let labels = examples.iter().map(|example| example.label.as_deref()).collect::<Option<Vec<_>>>();
    let labels =
        labels.ok_or_else(|| Error::bad_input(format!("some texts of {} have no label", args.data.display())))?;
    let mut scores: Vec<Score> = Vec::new();
    let mut first: Option<Vec<usize>> = None;
    for name in engines(&bundle, &args.engine, screen) {
        let mut classifier = Classifier::open(&args.bundle, Some(&name), Options::default(), screen)?;
        screen.begin(&classifier.name, Some(examples.len() as u64));
        let start = std::time::Instant::now();
        let mut answers = Vec::with_capacity(examples.len());
        let mut right = 0;
        for (example, label) in examples.iter().zip(&labels) {
            let answer = classifier.answer(&example.text)?;
            right += usize::from(answer.label == *label);
            answers.push(answer.class);
            screen.advance(1);
        }
        let seconds = start.elapsed().as_secs_f64();
        let reference = first.get_or_insert_with(|| answers.clone());
        let same = answers.iter().zip(reference.iter()).filter(|(a, b)| a == b).count();
        let share = |n: usize| n as f64 / examples.len() as f64;
        scores.push(Score {
            engine: name,
            texts: examples.len(),
            right,
            accuracy: share(right),
            same_answer: share(same),
            texts_per_second: examples.len() as f64 / seconds,
        });
        screen.done(&format!("{}: {right} of {} right", classifier.name, examples.len()));
    }
    if scores.is_empty() {
        return Err(Error::runtime_missing("none of the bundle's engines can run here")
            .hint("kilnc doctor says what is missing"));
    }
    screen.result(&scores, |scores| {
        let width = scores.iter().map(|score| score.engine.len()).max().unwrap_or(0);
        let mut out = format!("{:width$}  accuracy  right/texts  same answer  texts/s\n", "engine");
        for s in scores {
            let of = format!("{}/{}", s.right, s.texts);
            out += &format!(
                "{:width$}  {:>8.4}  {of:>11}  {:>11.4}  {:>7.1}\n",
                s.engine, s.accuracy, s.same_answer, s.texts_per_second
            );
        }
        out
    })
}

/// The engines that were asked for, or all that run here; those that do not are named.
fn engines(bundle: &Bundle, asked: &[String], screen: &Screen) -> Vec<String> {
    if !asked.is_empty() {
        return asked.to_vec();
    }
    let engines = bundle.manifest.engines.iter().filter(|engine| match runtime::available(engine.runtime) {
        Ok(_) => true,
        Err(e) => {
            screen.warn(&format!("{} is left out: {}", engine.name, e.message()));
            false
        }
    });
    engines.map(|engine| engine.name.clone()).collect()
}
