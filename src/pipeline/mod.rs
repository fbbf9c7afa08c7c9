//! Answers texts with an engine, by the task of its model: what `transformers` does in a `pipeline`, from the same
//! logits to the same answers.
//!
//! An [`Pipeline`] is an engine with its tokenizer. It cuts texts into windows where they are longer than the model
//! reads ([`Lengths`]), runs windows of like length together, and reads and joins what the engine gives, by a rule for
//! each task:
//!
//! | task | answer | over several windows |
//! |---|---|---|
//! | text classification | labels with scores | the mean of the scores, or the largest ([`Join`]) |
//! | token classification | entities, grouped by an [`Aggregation`] | each token by the window that sees most around it |
//! | question answering | spans of the text | the best of all windows |
//! | masked tokens | the likeliest tokens of each mask | each mask by the window that sees most around it |
//! | sentence similarity | a vector; of a pair, its [`Similarity`] | the mean, of length 1 where those of the windows are |
//! | feature extraction | a vector for each token | each token by the window that sees most around it |
//!
//! A mean counts every window as often as it has tokens. Where it is known what a text should be answered,
//! [`Pipeline::logits`], [`Pipeline::words`], [`Pipeline::token_scores`] and [`Pipeline::similarity`] tell what is needed to score
//! a model.
//!
//! ```no_run
//! use kilnc::answer::{Answer, Answerer, Options};
//! use kilnc::runtime::TextInput;
//!
//! # fn main() -> kilnc::Result<()> {
//! let mut model = Answerer::of_bundle("squad.kiln".as_ref(), None, Options::default())?;
//! let answered = model.predict(TextInput::question("How tall is it?", "The tower is 324 m high."))?;
//! if let Answer::Spans { answers } = answered.answer {
//!     for span in answers {
//!         println!("{:.3} {} ({}…{})", span.score, span.answer, span.start, span.end);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What [`Options`] leave open is taken from the bundle's own [`Settings`], where it has any.
//!
//! Many texts are answered at once, in the order in which they were asked; [`lines`] does it from file to file:
//!
//! ```no_run
//! use kilnc::answer::{Aggregation, Answer, Answerer, Options, Settings};
//!
//! # fn main() -> kilnc::Result<()> {
//! let settings = Settings { aggregation: Some(Aggregation::First), ..Settings::default() };
//! let options = Options { batch: 16, settings };
//! let mut model = Answerer::of_bundle("ner.kiln".as_ref(), Some("ort-cpu-fp32"), options)?;
//! let texts = ["Angela Merkel met them in Paris", "東京 is far"];
//! for (text, answered) in texts.iter().zip(model.answer_all(&texts.map(Into::into))?) {
//!     if let Answer::Entities { entities } = answered.answer {
//!         println!("{text}: {} entities", entities.len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod batches;
mod classes;
mod groups;
mod known;
pub mod lines;
mod masks;
mod options;
mod spans;
mod token_scores;
mod tokens;
mod vectors;
mod words;

use std::path::Path;

use serde::Serialize;

use crate::bundle::{self, Bundle, EngineEntry};
use crate::error::{Error, Result};
use crate::runtime::{self, Classes, Encoded, Engine, Lengths, Slide, TextEncoder, TextInput};
use crate::task::Task;

use batches::{Batches, Tokenized};
use options::lengths;

pub use crate::settings::{Aggregation, Join, Settings, Similarity};
pub use classes::Labels;
pub use masks::{Fill, MOST_MASKS};
pub use options::Options;
pub use spans::Span;
pub use token_scores::{TokenScore, targets};
pub use tokens::Entity;
pub use words::Word;

/// What a model is for, and how its answers are read.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its task.
    pub task: Task,
    /// What it can answer, where answers have names.
    pub classes: Classes,
    /// Whether it learned questions after the text, as XLNet did.
    pub context_first: bool,
}

impl Model {
    /// A model of that task and family.
    pub fn new(task: Task, classes: Classes, model_type: &str) -> Model {
        // `transformers` puts first what is not padded, and pads XLNet's texts on the left.
        Model { task, classes, context_first: model_type == "xlnet" }
    }
}

/// What a model says to a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Prediction {
    /// Text classification.
    Labels(Labels),
    /// Token classification: the entities in the text's order, or its tokens that are part of one.
    Entities {
        /// The entities.
        entities: Vec<Entity>,
    },
    /// Question answering: the surest first.
    Spans {
        /// The answers; the empty one stands for none.
        answers: Vec<Span>,
    },
    /// Masked tokens: for each mask in the text's order, the likeliest tokens.
    Fills {
        /// A list for each mask.
        masks: Vec<Vec<Fill>>,
    },
    /// Sentence similarity of one text: its vector.
    Vector {
        /// The vector.
        embedding: Vec<f32>,
    },
    /// Sentence similarity of a pair: how alike the two are by their vectors, as the settings' [`Similarity`] has it.
    Similarity {
        /// The larger, the more alike.
        score: f32,
    },
    /// Feature extraction.
    Features {
        /// A vector for each token, those around the text too.
        features: Vec<Vec<f32>>,
        /// One for the whole text, where the model has a pooler.
        #[serde(skip_serializing_if = "Option::is_none")]
        pooled: Option<Vec<f32>>,
    },
}

/// An answer, and how much of the text it is of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predicted<A = Prediction> {
    /// The answer.
    #[serde(flatten)]
    pub answer: A,
    /// In how many windows the text was read.
    #[serde(skip_serializing_if = "is_one")]
    pub windows: usize,
    /// How many of its tokens were cut off and had no say.
    #[serde(skip_serializing_if = "is_zero")]
    pub tokens_cut: usize,
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A text that waits for its answer.
pub trait Query {
    /// The text.
    fn input(&self) -> TextInput<'_>;

    /// Where it comes from, for messages.
    fn place(&self) -> Option<String>;
}

/// Most bytes of texts that are held in memory at once.
const MOST_BYTES: usize = 4 << 20;

/// Most texts that are, where every token has a vector.
const MOST_TEXTS_OF_VECTORS: usize = 64;

/// An engine that answers texts.
pub struct Pipeline {
    engine: Box<dyn Engine>,
    encoder: TextEncoder,
    model: Model,
    options: Options,
    lengths: Lengths,
}

impl Pipeline {
    /// Opens an engine of the bundle at `path`: the one of that name, or the fastest that runs here.
    pub fn of_bundle(path: &Path, engine: Option<&str>, options: Options) -> Result<Pipeline> {
        Bundle::used(path, |bundle| {
            let (entry, _) = bundle.choose(engine)?;
            Pipeline::open(bundle, entry, runtime::Options::default(), options)
        })
    }

    /// Opens an engine of a bundle, in a process of its own where children can be started. Where the options say nothing,
    /// the bundle's own settings hold. Fails where the files are not what the manifest says, and where the options or
    /// the bundle's settings ask for what the model has not.
    pub fn open(bundle: &Bundle, entry: &EngineEntry, run: runtime::Options, options: Options) -> Result<Pipeline> {
        let manifest = &bundle.manifest;
        let model = Model::new(manifest.task, bundle.classes(), &manifest.model_type);
        let encoder = bundle.encoder().map_err(|e| bundle.named_error(e))?;
        let summary = manifest.answers.check_in(bundle::MANIFEST, model.task, encoder.max_length);
        summary.map_err(|e| e.at(bundle.dir.display().to_string()))?;
        let options = options.over(manifest.answers);
        let lengths = lengths(&options, &model, encoder.max_length)?;
        let opened = runtime::open_isolated(entry.runtime, &bundle.engine(entry)?, run, &[]);
        let engine = opened.map_err(|e| bundle.explained(entry.runtime, bundle.named_error(e)))?;
        bundle.check_unchanged()?;
        Ok(Pipeline { engine, encoder, model, options, lengths })
    }

    /// Puts an engine and a tokenizer together. Fails where the options ask for what the model has not.
    pub fn new(engine: Box<dyn Engine>, encoder: TextEncoder, model: Model, options: Options) -> Result<Pipeline> {
        let lengths = lengths(&options, &model, encoder.max_length)?;
        Ok(Pipeline { engine, encoder, model, options, lengths })
    }

    /// What the model is for.
    pub fn task(&self) -> Task {
        self.model.task
    }

    /// How texts are asked and answers told: by the options, and where they say nothing by the bundle.
    pub fn settings(&self) -> &Settings {
        &self.options.settings
    }

    /// How texts are cut into windows.
    pub fn lengths(&self) -> Lengths {
        self.lengths
    }

    /// Answers one text.
    pub fn predict(&mut self, input: TextInput) -> Result<Predicted> {
        one(self.predict_watched(&[input], &UNWATCHED)?)
    }

    /// Answers texts, in the order given. Fails where one is not what the task asks for, and says which.
    pub fn predict_all(&mut self, inputs: &[TextInput]) -> Result<Vec<Predicted>> {
        let place = |number: usize| (inputs.len() > 1).then(|| format!("text {}", number + 1));
        self.predict_watched(inputs, &Watch { place: &place, done: &|_| () })
    }

    /// Answers any number of texts, in their order: as many at once as fit in memory, `most` at most. `next` gives them one
    /// by one, `done` is called for each that was answered, and `tell` is given the answers.
    pub fn predict_each<Q: Query>(
        &mut self,
        most: usize,
        next: &mut dyn FnMut() -> Result<Option<Q>>,
        done: &dyn Fn(),
        tell: &mut dyn FnMut(Vec<(Q, Predicted)>) -> Result<()>,
    ) -> Result<()> {
        let most = if self.model.task == Task::FeatureExtraction { most.min(MOST_TEXTS_OF_VECTORS) } else { most };
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
            let place = |number: usize| some.get(number).and_then(Query::place);
            let answers = self.predict_watched(&inputs, &Watch { place: &place, done: &|_| done() })?;
            tell(some.into_iter().zip(answers).collect())?;
        }
    }

    fn predict_watched(&mut self, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        for (number, input) in inputs.iter().enumerate() {
            check(self.model.task, *input).map_err(|e| watch.placed(number, e))?;
        }
        match self.model.task {
            Task::SentenceSimilarity => self.similarities(inputs, watch),
            _ => self.predict_checked(inputs, watch),
        }
    }

    /// Fails where a text is not what the task asks for, or cannot be read by the model. Runs no engine.
    fn check_text(&self, input: TextInput) -> Result<()> {
        check(self.model.task, input)?;
        let asked = match (self.model.task, input.pair) {
            // The two are read apart.
            (Task::SentenceSimilarity, Some(pair)) => self.encode(&[input.text.into(), pair.into()], &UNWATCHED)?,
            _ => self.encode(&[input], &UNWATCHED)?,
        };
        match self.model.task {
            Task::FillMask => asked.iter().try_for_each(|asked| masks::masks(&self.encoder, asked).map(drop)),
            _ => Ok(()),
        }
    }

    fn predict_checked(&mut self, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        let asked = self.encode(inputs, watch)?;
        let Pipeline { engine, encoder, model, options, .. } = self;
        let batches = Batches { watch, ..batches(encoder, model, options) };
        let settings = &options.settings;
        match model.task {
            Task::TextClassification => batches.run(&mut **engine, &asked, &classes::Head::new(model, settings)),
            Task::TokenClassification => batches.run(&mut **engine, &asked, &tokens::Head { encoder, model, settings }),
            Task::QuestionAnswering => batches.run(&mut **engine, &asked, &spans::Head { model, settings }),
            Task::FillMask => batches.run(&mut **engine, &asked, &masks::Head { encoder, settings }),
            Task::SentenceSimilarity => batches.run(&mut **engine, &asked, &vectors::Sentence),
            Task::FeatureExtraction => batches.run(&mut **engine, &asked, &vectors::Features),
            Task::TextGeneration => Err(Error::bug("a prompt is continued by a generation loop")),
        }
    }

    /// Vectors of texts, and the similarities of pairs, whose texts are read apart.
    fn similarities(&mut self, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        let texts = inputs.iter().enumerate().flat_map(|(number, input)| {
            [Some(input.text), input.pair].into_iter().flatten().map(move |text| (number, text))
        });
        let (numbers, texts): (Vec<usize>, Vec<TextInput>) =
            texts.map(|(number, text)| (number, TextInput::from(text))).unzip();
        let number = |text: usize| numbers.get(text).copied().unwrap_or_default();
        let is_first = |text: usize| text == 0 || number(text - 1) != number(text);
        let done = |text: usize| {
            if is_first(text) {
                (watch.done)(number(text))
            }
        };
        let watch = Watch { place: &|text| (watch.place)(number(text)), done: &done };
        let mut vectors = self.predict_checked(&texts, &watch)?.into_iter();
        let mut next = || vectors.next().ok_or_else(|| Error::bug("a text was not answered"));
        let how = self.options.settings.similarity.unwrap_or_default();
        let mut answers = Vec::with_capacity(inputs.len());
        for input in inputs {
            let first = next()?;
            answers.push(match input.pair {
                Some(_) => vectors::similarity(how, &first, &next()?),
                None => first,
            });
        }
        Ok(answers)
    }

    fn encode<'a>(&self, inputs: &[TextInput<'a>], watch: &Watch) -> Result<Vec<Tokenized<'a>>> {
        let ordered: Vec<TextInput> = inputs.iter().map(|input| self.model.ordered(*input)).collect();
        let encoded = match self.encoder.split(&ordered, &self.lengths) {
            Ok(encoded) => encoded,
            // One after the other, to say which one it was.
            Err(_) => {
                let one = |(number, input): (usize, &TextInput)| {
                    let split = self.encoder.split(&[*input], &self.lengths).map_err(|e| watch.placed(number, e))?;
                    split.into_iter().next().ok_or_else(|| Error::bug("a text was not encoded"))
                };
                ordered.iter().enumerate().map(one).collect::<Result<Vec<Encoded>>>()?
            }
        };
        Ok(inputs.iter().zip(encoded).map(|(input, encoded)| Tokenized { input: *input, encoded }).collect())
    }
}

/// Who watches texts being answered, which it knows by their numbers.
struct Watch<'a> {
    /// Where a text comes from, for messages.
    place: &'a dyn Fn(usize) -> Option<String>,
    /// Called once for each text when its last window was run.
    done: &'a dyn Fn(usize),
}

/// Nobody.
const UNWATCHED: Watch = Watch { place: &|_| None, done: &|_| () };

/// How the windows of texts that nobody watches are run.
fn batches<'a>(encoder: &'a TextEncoder, model: &Model, options: &Options) -> Batches<'a> {
    Batches { encoder, windows: options.batch, tokens: batches::most_tokens(model.task), watch: &UNWATCHED }
}

/// What there is of the one text that was asked.
fn one<T>(answers: Vec<T>) -> Result<T> {
    answers.into_iter().next().ok_or_else(|| Error::bug("a text was not answered"))
}

impl Watch<'_> {
    fn placed(&self, text: usize, error: Error) -> Error {
        match (self.place)(text) {
            Some(place) => error.at(place),
            None => error,
        }
    }
}

impl Model {
    /// The two texts of a question in the order in which the model reads them.
    fn ordered<'a>(&self, input: TextInput<'a>) -> TextInput<'a> {
        match (self.task, self.context_first, input) {
            (Task::QuestionAnswering, true, TextInput { text, pair: Some(context) }) => {
                TextInput { text: context, pair: Some(text) }
            }
            _ => input,
        }
    }

    /// Which text of a pair the windows slide over: the one that holds the answer.
    fn slide(&self) -> Slide {
        match self.task == Task::QuestionAnswering && self.context_first {
            true => Slide::First,
            false => Slide::Second,
        }
    }
}

/// Fails where a text is not what the task asks for.
fn check(task: Task, TextInput { text, pair }: TextInput) -> Result<()> {
    if text.trim().is_empty() || pair.is_some_and(|pair| pair.trim().is_empty()) {
        let what =
            if task == Task::QuestionAnswering { "the question or its text is empty" } else { "a text is empty" };
        return Err(Error::bad_input(what));
    }
    match (task, pair) {
        (Task::QuestionAnswering, None) => Err(Error::bad_input("there is no question to the text")
            .hint("--question Q --text TEXT; in JSON lines, `question` and `context`")),
        (Task::TextGeneration, _) => {
            Err(Error::unsupported("a model of text-generation continues prompts")
                .hint("kilnc run BUNDLE --prompt TEXT"))
        }
        (Task::TokenClassification | Task::FillMask | Task::FeatureExtraction, Some(_)) => {
            Err(Error::bad_input(format!("{task} is of one text, not of a pair")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_task_asks_for_is_checked() {
        let said = |task, input| check(task, input).unwrap_err().message().to_owned();
        assert_eq!(said(Task::TextClassification, " \n".into()), "a text is empty");
        assert_eq!(said(Task::QuestionAnswering, "a text".into()), "there is no question to the text");
        let question = TextInput::question("", "a text");
        assert_eq!(said(Task::QuestionAnswering, question), "the question or its text is empty");
        let pair = TextInput { text: "a", pair: Some("b") };
        assert_eq!(said(Task::FillMask, pair), "fill-mask is of one text, not of a pair");
        assert!(check(Task::TextClassification, pair).is_ok());
    }
}
