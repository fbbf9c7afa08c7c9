//! `kilnc eval`: scores a bundle on labelled texts.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Screen, VouchArgs};
use crate::bundle::{self, Bundle};
use crate::error::{Error, Result};
use crate::eval::{Example, Parity, Score, read_examples};
use crate::pipeline::Observer;
use crate::runtime::{self, Engine, Options, Reading, TextEncoder, TextInput};
use crate::task::Task;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc eval sections.kiln --data sections-eval.jsonl
  kilnc eval sections.kiln --data sections-eval.jsonl --engine ort-cpu-int8 --json
  kilnc eval sections.kiln --data sections-eval.jsonl --key release.pem.pub

Each line of the data is an object such as {\"text\": \"…\", \"label\": \"…\"}: with \"labels\": [\"…\", …] where texts
have any number of labels, with numbers where answers are numbers, and with \"pair\": \"…\" where two texts are asked
about together. Every engine of the bundle that can run here is scored, one text at a time; “same answer” and
“max_abs” are against the first.")]
pub struct EvalArgs {
    /// The bundle.
    bundle: PathBuf,
    /// Labelled texts, one JSON object on each line.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Which of the bundle's engines; all that run here, if not given.
    #[arg(long, value_name = "NAME")]
    engine: Vec<String>,
    #[command(flatten)]
    vouch: VouchArgs,
}

#[derive(Serialize)]
struct Scored {
    engine: String,
    #[serde(flatten)]
    score: Score,
    /// Share of texts with the first engine's answer, where answers are labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_answer: Option<f64>,
    /// Largest difference of a logit from the first engine's.
    max_abs: f64,
    texts_per_second: f64,
}

/// A bundle's engine, opened with what it needs to answer.
struct Classifier {
    engine: Box<dyn Engine>,
    encoder: TextEncoder,
}

impl Classifier {
    /// Opens an engine of a bundle whose files are what the manifest says.
    fn open(bundle: &Bundle, engine: &str) -> Result<Classifier> {
        let manifest = &bundle.manifest;
        if manifest.task != Task::TextClassification {
            return Err(Error::unsupported(format!(
                "scoring is built for text-classification; this bundle is for {}",
                manifest.task
            )));
        }
        let (entry, _) = bundle.choose(Some(engine))?;
        let opened = runtime::open_apart(entry.runtime, &bundle.engine(entry)?, Options::default(), &[]);
        Ok(Classifier {
            engine: opened.map_err(|e| bundle.explained(entry.runtime, e))?,
            encoder: TextEncoder::open(&bundle.file(bundle::TOKENIZER)?, manifest.max_length)?,
        })
    }

    /// The logits of one text.
    fn logits(&mut self, input: TextInput) -> Result<Vec<f32>> {
        let rows = runtime::logits(&mut *self.engine, &self.encoder, &[input])?;
        rows.into_iter().next().ok_or_else(|| Error::bug("a text was not answered"))
    }
}

pub fn run(args: EvalArgs, screen: &Screen) -> Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    args.vouch.check(&bundle, screen)?;
    let classes = bundle.classes();
    let examples = read_examples(&args.data, &classes)?;
    let truths = examples.iter().map(|example| example.truth.as_ref()).collect::<Option<Vec<_>>>();
    let truths =
        truths.ok_or_else(|| Error::bad_input(format!("some texts of {} have no label", args.data.display())))?;
    let mut scored: Vec<Scored> = Vec::new();
    let mut first: Option<Vec<Vec<f32>>> = None;
    for name in engines(&bundle, &args.engine, screen) {
        let mut classifier = Classifier::open(&bundle, &name)?;
        screen.begin(&name, Some(examples.len() as u64));
        let start = std::time::Instant::now();
        let answers = answers(&mut classifier, &examples, screen)?;
        let texts_per_second = examples.len() as f64 / start.elapsed().as_secs_f64();
        let score = Score::of(classes.reading, &answers, &truths);
        screen.done(&format!("{name}: {}", in_words(&score)));
        let reference = first.get_or_insert_with(|| answers.clone()).iter();
        let pairs = reference.zip(&answers).map(|(a, b)| (a.as_slice(), b.as_slice()));
        let Parity { agreement, max_abs, .. } = Parity::of_answers(pairs, classes.reading)?;
        scored.push(Scored { engine: name, score, same_answer: agreement, max_abs, texts_per_second });
    }
    if scored.is_empty() {
        return Err(Error::runtime_missing("none of the bundle's engines can run here")
            .hint("kilnc doctor says what is missing"));
    }
    screen.result(&scored, |scored| table(classes.reading, scored))
}

/// The logits of every text, asked one at a time.
fn answers(classifier: &mut Classifier, examples: &[Example], screen: &Screen) -> Result<Vec<Vec<f32>>> {
    let mut answers = Vec::with_capacity(examples.len());
    for example in examples {
        answers.push(classifier.logits(example.into())?);
        screen.advance(1);
    }
    Ok(answers)
}

fn in_words(score: &Score) -> String {
    match (score.right, score.mean_abs_error) {
        (Some(right), _) => format!("{right} of {} right", score.texts),
        (None, Some(error)) => format!("off by {error:.4} on average"),
        (None, None) => format!("{} texts", score.texts),
    }
}

/// The measures that fit the kind of answer, one line for each engine.
fn table(reading: Reading, scored: &[Scored]) -> String {
    let header: &[&str] = match reading {
        Reading::OneLabel => &["accuracy", "right/texts", "same answer", "texts/s"],
        Reading::ManyLabels => &["exact match", "micro F1", "right/texts", "same answer", "texts/s"],
        Reading::Numbers | Reading::Score => &["mean abs error", "spearman", "max_abs", "texts/s"],
    };
    let width = scored.iter().map(|s| s.engine.len()).max().unwrap_or(0);
    let header_line: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let mut out = line("engine", width, &header_line, header);
    for s in scored {
        out += &line(&s.engine, width, &cells(reading, s), header);
    }
    out
}

fn line(engine: &str, width: usize, cells: &[String], header: &[&str]) -> String {
    let aligned = cells.iter().zip(header).map(|(cell, name)| format!("  {cell:>0$}", name.chars().count().max(7)));
    format!("{engine:width$}{}\n", aligned.collect::<String>())
}

fn cells(reading: Reading, s: &Scored) -> Vec<String> {
    let share = |x: Option<f64>| x.map_or_else(|| "?".to_owned(), |x| format!("{x:.4}"));
    let score = &s.score;
    let right = format!("{}/{}", score.right.unwrap_or_default(), score.texts);
    let speed = format!("{:.1}", s.texts_per_second);
    match reading {
        Reading::OneLabel => vec![share(score.accuracy), right, share(s.same_answer), speed],
        Reading::ManyLabels => vec![share(score.accuracy), share(score.micro_f1), right, share(s.same_answer), speed],
        Reading::Numbers | Reading::Score => {
            vec![share(score.mean_abs_error), share(score.spearman), format!("{:.1e}", s.max_abs), speed]
        }
    }
}

/// The engines that were asked for, or all that run here; those that do not are named.
fn engines(bundle: &Bundle, asked: &[String], screen: &Screen) -> Vec<String> {
    if !asked.is_empty() {
        return asked.to_vec();
    }
    let engines = bundle.manifest.engines.iter().filter(|engine| match bundle.available(engine.runtime) {
        Ok(_) => true,
        Err(e) => {
            screen.warn(&format!("{} is left out: {}", engine.name, e.message()));
            false
        }
    });
    engines.map(|engine| engine.name.clone()).collect()
}
