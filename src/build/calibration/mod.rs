//! What 8-bit engines are calibrated on: reads a recipe's `[calibration]`, and makes a [`Calibrator`] of it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

mod calibrator;

use crate::calibrate::sample::{self, Sampling};
use crate::calibrate::{Estimator, Kind, Saved, Spec, npz};
use crate::error::{Error, Result};
use crate::eval::{self, Example, PROBES};
use crate::front::hub::load::Model;
use crate::json::file_name;
use crate::observer::Observer;
use crate::recipe::Recipe;
use crate::runtime::{Classes, Elements, Named, TextEncoder};
pub(in crate::build) use calibrator::Observed;
pub use calibrator::{CalibrationOutput, Calibrator};
use calibrator::{Origin, weights_digest};

/// How much of a text that is sampled from a corpus is read, in bytes: more than any model reads.
const LONGEST_SAMPLE: usize = 1 << 16;

/// Texts, inputs or saved calibration, as a recipe names them.
pub struct CalibrationSource {
    what: What,
    name: String,
    files: Vec<PathBuf>,
    sampling: Option<Sampling>,
    estimator: Estimator,
}

enum What {
    BuiltIn(Vec<Example>),
    Texts(Vec<Example>),
    Inputs(Vec<Named>),
    Saved(PathBuf),
}

impl CalibrationSource {
    /// Reads files and samples from them. Labels that `classes` lack are warned of, and then no text has one; a
    /// label that is misspelt among others that are not is an error.
    pub fn read(spec: &Spec, classes: &Classes, observer: &dyn Observer) -> Result<CalibrationSource> {
        CalibrationSource::labelled(spec, classes, Labels::Welcome, observer)
    }

    /// The same, where labels may be needed.
    pub(in crate::build) fn labelled(
        spec: &Spec,
        classes: &Classes,
        labels: Labels,
        observer: &dyn Observer,
    ) -> Result<CalibrationSource> {
        spec.check()?;
        let what = match &spec.file {
            None => What::BuiltIn(probes()),
            Some(path) => match Kind::of(path) {
                Kind::Saved => What::Saved(path.clone()),
                Kind::Inputs => What::Inputs(inputs(path, spec.sampling())?),
                Kind::Texts => What::Texts(texts(path, spec, classes, labels, observer)?),
            },
        };
        let name = spec.file.as_deref().map_or_else(|| BUILT_IN.to_owned(), file_name);
        Ok(CalibrationSource {
            what,
            name,
            files: spec.file.iter().chain(&spec.like).cloned().collect(),
            sampling: spec.sampling(),
            estimator: spec.ranges.unwrap_or_default(),
        })
    }

    /// The texts, if it is texts, and their name.
    pub fn texts(&self) -> Option<(&str, &[Example])> {
        match &self.what {
            What::BuiltIn(texts) | What::Texts(texts) => Some((&self.name, texts)),
            What::Inputs(_) | What::Saved(_) => None,
        }
    }

    /// Whether there are texts that have to be tokenized.
    pub fn needs_tokenizer(&self) -> bool {
        self.texts().is_some()
    }

    /// Makes a calibrator. `encoder` is there where texts have to be tokenized, `scratch` is a folder for the
    /// time of the build.
    pub fn calibrator<'a>(
        &self,
        model: &Model,
        encoder: Option<&TextEncoder>,
        max_length: usize,
        scratch: &Path,
        observer: &'a dyn Observer,
    ) -> Result<Calibrator<'a>> {
        let of_inputs = |inputs| Calibrator::new(&self.name, inputs, scratch.to_owned(), observer);
        let (calibrator, cut) = match &self.what {
            What::Saved(path) => {
                (Calibrator::saved(&self.name, Saved::open(path, &weights_digest(model)?)?, observer), 0)
            }
            What::Inputs(inputs) => {
                npz::check(inputs, model.graph()).map_err(|e| e.at(self.name.clone()))?;
                let cut = inputs.iter().filter(|text| tokens(text) > max_length).count();
                (of_inputs(inputs.iter().map(|text| shortened(text, max_length)).collect()), cut)
            }
            What::BuiltIn(texts) | What::Texts(texts) => {
                let encoder = encoder.ok_or_else(|| Error::bug("texts have to be tokenized"))?;
                let (inputs, cut) = encoded(encoder, texts).map_err(|(e, text)| match &self.what {
                    // That the built-in ones fail is no matter of a text.
                    What::BuiltIn(_) => e,
                    _ => e.at(format!("text {text} of {}", self.name)),
                })?;
                (of_inputs(inputs), cut)
            }
        };
        let built_in = matches!(self.what, What::BuiltIn(_));
        Ok(calibrator.with_origin(Origin {
            built_in,
            files: self.files.clone(),
            sampling: self.sampling,
            cut,
            estimator: self.estimator,
        }))
    }
}

/// The name of built-in texts.
pub(in crate::build) const BUILT_IN: &str = "the built-in probes";

pub(in crate::build) fn probes() -> Vec<Example> {
    PROBES.iter().map(|text| Example::unlabelled(text)).collect()
}

/// Texts as inputs, each alone, and how many were longer than the model. An error comes with the number of its text.
fn encoded(encoder: &TextEncoder, texts: &[Example]) -> Result<(Vec<Named>, usize), (Error, usize)> {
    let mut cut = 0;
    let mut inputs = Vec::with_capacity(texts.len());
    for (i, example) in texts.iter().enumerate() {
        let failed = |e| (e, i + 1);
        let text = encoder.encode(&[example]).map_err(failed)?;
        cut += usize::from(tokens(&text) == encoder.max_length && encoder.is_cut(example).map_err(failed)?);
        inputs.push(text);
    }
    Ok((inputs, cut))
}

/// Whether a bound needs the labels of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::build) enum Labels {
    /// Labels that the model lacks are an error.
    Needed,
    /// Texts count without such labels, with a warning.
    Welcome,
}

impl Labels {
    /// Whether the bounds of a recipe need labels.
    pub fn of(recipe: &Recipe) -> Labels {
        let bounded = recipe.bounds_accuracy || recipe.engines.iter().any(|engine| engine.gate.accuracy_drop.is_some());
        if bounded { Labels::Needed } else { Labels::Welcome }
    }
}

/// Labels that the model lacks.
#[derive(Default)]
struct Foreign {
    first: Option<Error>,
    /// The message of each, of some of them.
    said: BTreeSet<String>,
}

impl Foreign {
    /// How many labels a warning names.
    const NAMED: usize = 8;

    fn take(&mut self, error: Error) {
        if self.said.len() < Foreign::NAMED {
            self.said.insert(error.message().to_owned());
        }
        self.first.get_or_insert(error);
    }

    /// The texts, with their labels where the model has all of these. Where it lacks some and they are not needed, the
    /// texts count without them; but a label that is misspelt among others that are not is an error. `what` is what
    /// becomes of the texts.
    fn settled(
        self,
        mut texts: Vec<Example>,
        labels: Labels,
        what: &str,
        observer: &dyn Observer,
    ) -> Result<Vec<Example>> {
        let Some(first) = self.first else { return Ok(texts) };
        if labels == Labels::Needed {
            return Err(first.hint("the drop of accuracy is bounded, which needs labels that the model has"));
        }
        if eval::is_misspelt(&first) && texts.iter().any(|example| example.truth.is_some()) {
            return Err(first);
        }
        let (location, said) = (first.locations().join(" "), self.said.into_iter().collect::<Vec<_>>().join(", "));
        observer.warn(&format!("{location}: {said}; {what} without their labels, and no accuracy is measured"));
        texts.iter_mut().for_each(|example| example.truth = None);
        Ok(texts)
    }
}

/// Texts on which engines are compared.
pub(in crate::build) fn compared(
    path: &Path,
    classes: &Classes,
    labels: Labels,
    observer: &dyn Observer,
) -> Result<Vec<Example>> {
    let foreign = RefCell::new(Foreign::default());
    let note = |e| foreign.borrow_mut().take(e);
    let texts = eval::examples_with_any_labels(path, None, classes, note)?.collect::<Result<_>>()?;
    let texts = eval::not_none(texts, &file_name(path))?;
    foreign.into_inner().settled(texts, labels, "engines are compared on the texts", observer)
}

/// Texts that engines are calibrated on.
fn texts(path: &Path, spec: &Spec, classes: &Classes, labels: Labels, observer: &dyn Observer) -> Result<Vec<Example>> {
    let foreign = RefCell::new(Foreign::default());
    let texts = chosen(path, spec, classes, &foreign, observer)?;
    foreign.into_inner().settled(texts, labels, "the model is calibrated on the texts", observer)
}

/// The texts of a specification. Labels that the model lacks go to `foreign`.
fn chosen(
    path: &Path,
    spec: &Spec,
    classes: &Classes,
    foreign: &RefCell<Foreign>,
    observer: &dyn Observer,
) -> Result<Vec<Example>> {
    let column = spec.text_column.as_deref();
    let examples = || {
        let note = move |e| foreign.borrow_mut().take(e);
        eval::examples_with_any_labels(path, column, classes, note)
    };
    let Some(sampling) = spec.sampling() else {
        return eval::not_none(examples()?.collect::<Result<_>>()?, &file_name(path));
    };
    let corpus = || {
        let kept = |row: Result<Example>| {
            observer.advance(1);
            row.map(|example| Example { text: head(example.text), pair: example.pair.map(head), ..example })
        };
        Ok(examples()?.map(kept))
    };
    observer.begin("choosing texts", None);
    let Some(like) = &spec.like else {
        let chosen = eval::not_none(sample::uniform(corpus()?, sampling)?, &file_name(path))?;
        observer.done(&format!("{} texts sampled from {}", chosen.len(), file_name(path)));
        return Ok(chosen);
    };
    let domain = eval::read_examples(like, &Classes::default())?;
    let chosen = sample::near(corpus, |example| &example.text, &domain, sampling)?;
    let (path, like) = (file_name(path), file_name(like));
    if chosen.is_empty() {
        return Err(Error::bad_input(format!("no text of {path} has a word of those of {like}")));
    }
    observer.done(&format!("{} texts of {path}, the most like those of {like}", chosen.len()));
    if chosen.len() < sampling.samples {
        observer.warn(&format!(
            "{} texts were requested: {path} has no more that are similar and differ",
            sampling.samples
        ));
    }
    Ok(chosen)
}

/// The part of a text that is read.
fn head(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST_SAMPLE));
    text
}

fn inputs(path: &Path, sampling: Option<Sampling>) -> Result<Vec<Named>> {
    let inputs = npz::read(path)?;
    match sampling {
        None => Ok(inputs),
        Some(sampling) => sample::uniform(inputs.into_iter().map(Ok), sampling),
    }
}

fn tokens(text: &Named) -> usize {
    text.first().map_or(0, |(_, tensor)| tensor.shape.iter().product())
}

/// The first tokens of a text.
fn shortened(text: &Named, max_length: usize) -> Named {
    let mut text = text.clone();
    for (_, tensor) in &mut text {
        if let (Some(length), Elements::I64(values)) = (tensor.shape.last_mut(), &mut tensor.elements) {
            *length = max_length.min(*length);
            values.truncate(*length);
        }
    }
    text
}
