//! Tasks: inputs, post-processing and measures, one file for each.
//!
//! [`Task`] is the name of one, with its facts as data ([`id`]). Each has a file here: which inputs it
//! takes, how a window of outputs is read, how windows become a prediction (`Definition`), and what scoring needs beyond
//! that. [`Pipeline`] is an engine with its tokenizer, as `pipeline` of `transformers`.
//!
//! | task | prediction | over several windows |
//! |---|---|---|
//! | text classification | labels with scores | the mean of the scores, or the largest ([`Join`]) |
//! | token classification | entities, grouped by an [`Aggregation`] | each token by the window with most context around it |
//! | question answering | spans of the text | the best of all windows |
//! | masked tokens | the likeliest tokens of each mask | each mask by the window with most context around it |
//! | sentence similarity | a vector; of a pair, its [`Similarity`] | the mean, of length 1 where those of the windows are |
//! | feature extraction | a vector for each token | each token by the window with most context around it |
//!
//! A mean counts every window as often as it has tokens. To score a model, [`Pipeline::logits`], [`Pipeline::words`],
//! [`Pipeline::token_scores`] and [`Pipeline::similarity`] return the basis of its measures.
//!
//! ```no_run
//! use kilnc::runtime::TextInput;
//! use kilnc::task::{PipelineOptions, Pipeline, Prediction};
//!
//! # fn main() -> kilnc::Result<()> {
//! let mut model = Pipeline::of_bundle("squad.kiln".as_ref(), None, PipelineOptions::default())?;
//! let predicted = model.predict(TextInput::question("How tall is it?", "The tower is 324 m high."))?;
//! if let Prediction::Spans { answers } = predicted.prediction {
//!     for span in answers {
//!         println!("{:.3} {} ({}…{})", span.score, span.answer, span.start, span.end);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Fields that [`PipelineOptions`] leave open are taken from the bundle's own [`Settings`], where it has any.
//!
//! Many texts are run at once, and predictions come in their order; [`lines`] does it from file to file:
//!
//! ```no_run
//! use kilnc::task::{Aggregation, PipelineOptions, Pipeline, Prediction, Settings};
//!
//! # fn main() -> kilnc::Result<()> {
//! let settings = Settings { aggregation: Some(Aggregation::First), ..Settings::default() };
//! let options = PipelineOptions { batch: 16, settings };
//! let mut model = Pipeline::of_bundle("ner.kiln".as_ref(), Some("ort-cpu-fp32"), options)?;
//! let texts = ["Angela Merkel met them in Paris", "東京 is far"];
//! for (text, predicted) in texts.iter().zip(model.predict_all(&texts.map(Into::into))?) {
//!     if let Prediction::Entities { entities } = predicted.prediction {
//!         println!("{text}: {} entities", entities.len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod batches;
mod feature_extraction;
mod fill_mask;
pub mod id;
pub mod lines;
mod model;
mod options;
mod pipeline;
mod question_answering;
mod sentence_similarity;
mod text_classification;
mod text_generation;
mod token_classification;
mod vectors;
mod watch;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::runtime::{TextEncoder, TextInput};

use batches::Tokenized;
use watch::Watch;

pub use crate::settings::{Aggregation, Join, Settings, Similarity};
pub use fill_mask::{Fill, MOST_MASKS, targets};
pub use id::Task;
pub use model::Model;
pub use options::PipelineOptions;
pub use pipeline::{Pipeline, Query};
pub use question_answering::Span;
pub use text_classification::Labels;
pub use text_generation::{generator_of, not_applied, open_generator};
pub use token_classification::{Entity, Word};

/// The pre- and post-processing of a model says to a text.
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
    /// The prediction.
    #[serde(flatten)]
    pub prediction: A,
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

/// What a task.
trait Definition: Sync {
    /// Fails where an input does not fit the task. None of its texts is empty.
    fn check(&self, _input: TextInput) -> Result<()> {
        Ok(())
    }

    /// Fails where the tokens of an input lack what the task needs.
    fn check_tokens(&self, _encoder: &TextEncoder, _tokens: &Tokenized) -> Result<()> {
        Ok(())
    }

    /// The message for an empty text.
    fn empty(&self) -> &'static str {
        "a text is empty"
    }

    /// Runs inputs that [`Definition::check`] has passed, and reads the outputs.
    fn predict(&self, pipeline: &mut Pipeline, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>>;
}

/// The one table of them.
fn definition(task: Task) -> &'static dyn Definition {
    match task {
        Task::FeatureExtraction => &feature_extraction::FeatureExtraction,
        Task::TextClassification => &text_classification::TextClassification,
        Task::TokenClassification => &token_classification::TokenClassification,
        Task::QuestionAnswering => &question_answering::QuestionAnswering,
        Task::FillMask => &fill_mask::FillMask,
        Task::SentenceSimilarity => &sentence_similarity::SentenceSimilarity,
        Task::TextGeneration => &text_generation::TextGeneration,
    }
}

/// Fails where an input does not fit the task.
fn check(task: Task, input: TextInput) -> Result<()> {
    let definition = definition(task);
    if input.text.trim().is_empty() || input.pair.is_some_and(|pair| pair.trim().is_empty()) {
        return Err(Error::bad_input(definition.empty()));
    }
    definition.check(input)
}

/// The error of a pair where a task takes one text.
fn not_a_pair(task: Task, input: TextInput) -> Result<()> {
    match input.pair {
        Some(_) => Err(Error::bad_input(format!("{task} is of one text, not of a pair"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_checked_against_the_task() {
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
