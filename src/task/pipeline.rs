//! An engine with its tokenizer: texts in, predictions out.

use std::path::Path;

use crate::bundle::{self, Bundle, EngineEntry};
use crate::error::{Error, Result};
use crate::runtime::{self, Encoded, Engine, Lengths, TextEncoder, TextInput};

use super::batches::{self, Batches, Tokenized};
use super::head::Head;
use super::id::{Input, Task};
use super::model::Model;
use super::options::{PipelineOptions, lengths};
use super::prediction::Predicted;
use super::table::{check, definition};
use super::watch::{UNWATCHED, Watch};
use crate::settings::Settings;

/// A text that waits for its prediction.
pub trait Query {
    /// The text.
    fn input(&self) -> TextInput<'_>;

    /// Where it comes from, for messages.
    fn location(&self) -> Option<String>;
}

/// Most bytes of texts that are held in memory at once.
pub(super) const MOST_BYTES: usize = 4 << 20;

/// Most texts that are, `most` or fewer: where a prediction has a vector for each token, it is large.
pub(super) fn most_texts(task: Task, most: usize) -> usize {
    if task.head() == Head::HiddenStates { most.min(64) } else { most }
}

/// An engine with its tokenizer, pre- and post-processing.
pub struct Pipeline {
    engine: Box<dyn Engine>,
    encoder: TextEncoder,
    model: Model,
    options: PipelineOptions,
    lengths: Lengths,
}

impl Pipeline {
    /// Opens an engine of the bundle at `path`: the one of that name, or the fastest that runs here.
    pub fn of_bundle(path: &Path, engine: Option<&str>, options: PipelineOptions) -> Result<Pipeline> {
        Bundle::used(path, |bundle| {
            let (entry, _) = bundle.choose(engine)?;
            Pipeline::open(bundle, entry, runtime::Options::default(), options)
        })
    }

    /// Opens an engine of a bundle, in an isolated process where children can be started. Where options are not set,
    /// the bundle's own settings hold. Fails where the files are not those of the manifest, and where the options or
    /// the bundle's settings need something that the model lacks.
    pub fn open(
        bundle: &Bundle,
        entry: &EngineEntry,
        run: runtime::Options,
        options: PipelineOptions,
    ) -> Result<Pipeline> {
        let manifest = &bundle.manifest;
        let model = Model::of_bundle(bundle);
        let encoder = bundle.encoder().map_err(|e| bundle.named_error(e))?;
        let checked = manifest.pipeline.check_in(bundle::MANIFEST, model.task, encoder.max_length);
        checked.map_err(|e| e.at(bundle.dir.display().to_string()))?;
        let options = options.over(manifest.pipeline);
        let lengths = lengths(&options, &model, encoder.max_length)?;
        let opened = runtime::open_isolated(entry.runtime, &bundle.engine(entry)?, run, &[]);
        let engine = opened.map_err(|e| bundle.explained(entry.runtime, bundle.named_error(e)))?;
        bundle.check_unchanged()?;
        Ok(Pipeline { engine, encoder, model, options, lengths })
    }

    /// Puts an engine and a tokenizer together. Fails where the options need something that the model lacks.
    pub fn new(
        engine: Box<dyn Engine>,
        encoder: TextEncoder,
        model: Model,
        options: PipelineOptions,
    ) -> Result<Pipeline> {
        let lengths = lengths(&options, &model, encoder.max_length)?;
        Ok(Pipeline { engine, encoder, model, options, lengths })
    }

    /// The same with another prompt before every text, or before the first of a pair, than the model's default one. Models
    /// for retrieval have one for queries and one for documents ([`Bundle::prompt_named`]).
    pub fn with_prompt(self, prompt: &str) -> Pipeline {
        Pipeline { encoder: self.encoder.with_prompt(Some(prompt)), ..self }
    }

    /// The task of the model.
    pub fn task(&self) -> Task {
        self.model.task
    }

    /// The settings in effect: those of the options, else those of the bundle.
    pub fn settings(&self) -> &Settings {
        &self.options.settings
    }

    /// How texts are cut into windows.
    pub fn lengths(&self) -> Lengths {
        self.lengths
    }

    /// The prediction for one text.
    pub fn predict(&mut self, input: TextInput) -> Result<Predicted> {
        one(self.predict_watched(&[input], &UNWATCHED)?)
    }

    /// The predictions for texts, in their order. Fails where one does not fit the task, and names it.
    pub fn predict_all(&mut self, inputs: &[TextInput]) -> Result<Vec<Predicted>> {
        let location = |number: usize| (inputs.len() > 1).then(|| format!("text {}", number + 1));
        self.predict_watched(inputs, &Watch { location: &location, done: &|_| () })
    }

    /// Runs any number of texts, in their order: as many at once as fit in memory, `most` at most. `next` returns them one
    /// by one, `done` is called for each that is done, and `tell` gets the predictions.
    pub fn predict_each<Q: Query>(
        &mut self,
        most: usize,
        next: &mut dyn FnMut() -> Result<Option<Q>>,
        done: &dyn Fn(),
        tell: &mut dyn FnMut(Vec<(Q, Predicted)>) -> Result<()>,
    ) -> Result<()> {
        let most = most_texts(self.model.task, most);
        loop {
            let (mut some, mut bytes) = (Vec::new(), 0);
            while some.len() < most
                && bytes < MOST_BYTES
                && let Some(question) = next()?
            {
                let TextInput { text, pair } = question.input();
                bytes += text.len() + pair.map_or(0, str::len);
                some.push(question);
            }
            if some.is_empty() {
                return Ok(());
            }
            let inputs: Vec<TextInput> = some.iter().map(Query::input).collect();
            let location = |number: usize| some.get(number).and_then(Query::location);
            let predictions = self.predict_watched(&inputs, &Watch { location: &location, done: &|_| done() })?;
            tell(some.into_iter().zip(predictions).collect())?;
        }
    }

    pub(super) fn predict_watched(&mut self, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        for (number, input) in inputs.iter().enumerate() {
            self.check(*input).map_err(|e| watch.located(number, e))?;
        }
        definition(self.model.task).predict(self, inputs, watch)
    }

    /// Fails where a text does not fit the task, or is one of a pair alone and the model scores pairs.
    fn check(&self, input: TextInput) -> Result<()> {
        check(self.model.task, input)?;
        match (self.encoder.pair_prompt(), input.pair) {
            (Some(_), None) => Err(Error::bad_input("the model scores pairs of texts, and there is one text")
                .hint("the first is a query and the second a document: --text QUERY --pair DOCUMENT")),
            _ => Ok(()),
        }
    }

    /// Fails where a text does not fit the task, or cannot be read by the model. Runs no engine.
    pub(super) fn check_text(&self, input: TextInput) -> Result<()> {
        self.check(input)?;
        let tokenized = match (self.model.task.facts().input, input.pair) {
            // The two are read separately.
            (Input::TextOrTwo, Some(pair)) => self.encode(&[input.text.into(), pair.into()], &UNWATCHED)?,
            _ => self.encode(&[input], &UNWATCHED)?,
        };
        let definition = definition(self.model.task);
        tokenized.iter().try_for_each(|tokenized| definition.check_tokens(&self.encoder, tokenized))
    }

    /// The engine, and what heads read its outputs with.
    pub(super) fn parts<'a>(&'a mut self, watch: &'a Watch<'a>) -> (&'a mut dyn Engine, Parts<'a>) {
        let Pipeline { engine, encoder, model, options, .. } = self;
        let batches = Batches { encoder, windows: options.batch, tokens: batches::most_tokens(model.task), watch };
        (&mut **engine, Parts { batches, encoder, model, settings: &options.settings })
    }

    /// The tokens of an input of a model for that task. Fails where the model is for another.
    pub(super) fn tokenized<'a>(&self, input: TextInput<'a>, task: Task) -> Result<Tokenized<'a>> {
        if self.task() != task {
            return Err(Error::bad_input(format!("the model is for {}, not for {task}", self.task())));
        }
        self.check(input)?;
        one(self.encode(&[input], &UNWATCHED)?)
    }

    pub(super) fn encode<'a>(&self, inputs: &[TextInput<'a>], watch: &Watch) -> Result<Vec<Tokenized<'a>>> {
        let ordered: Vec<TextInput> = inputs.iter().map(|input| self.model.ordered(*input)).collect();
        let encoded = match self.encoder.split(&ordered, &self.lengths) {
            Ok(encoded) => encoded,
            // One after the other, so that errors name the text.
            Err(_) => {
                let one = |(number, input): (usize, &TextInput)| {
                    let split = self.encoder.split(&[*input], &self.lengths).map_err(|e| watch.located(number, e))?;
                    split.into_iter().next().ok_or_else(|| Error::bug("a text was not encoded"))
                };
                ordered.iter().enumerate().map(one).collect::<Result<Vec<Encoded>>>()?
            }
        };
        Ok(inputs.iter().zip(encoded).map(|(input, encoded)| Tokenized { input: *input, encoded }).collect())
    }
}

/// What heads read outputs with.
pub(super) struct Parts<'a> {
    pub batches: Batches<'a>,
    pub encoder: &'a TextEncoder,
    pub model: &'a Model,
    pub settings: &'a Settings,
}

/// The prediction of the only text.
pub(super) fn one<T>(predictions: Vec<T>) -> Result<T> {
    predictions.into_iter().next().ok_or_else(|| Error::bug("a text has no prediction"))
}
