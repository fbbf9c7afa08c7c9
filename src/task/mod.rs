//! Tasks: inputs, post-processing and measures, one file for each.
//!
//! [`Task`] is the name of one, with its facts as data ([`id`]); the head that its models need is one of them, and all
//! that a model family knows ([`head`]). Each task has a file or a folder here: which inputs it takes, how a window of
//! outputs is read, how windows become a prediction, and how engines are scored on labelled rows (`Definition`). One table
//! has them all (`table.rs`). [`Pipeline`] is an engine with its tokenizer, as `pipeline` of `transformers`.
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
//! A mean counts every window as often as it has tokens. [`scoring`] scores a bundle's engines on
//! labelled rows; [`Pipeline::logits`], [`Pipeline::words`], [`Pipeline::token_scores`] and [`Pipeline::similarity`] return
//! the basis of its measures.
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
mod characters;
mod definition;
mod feature_extraction;
mod fill_mask;
pub mod head;
pub mod id;
pub mod lines;
mod model;
mod options;
mod pipeline;
mod prediction;
mod question_answering;
mod scoring;
mod sentence_similarity;
mod table;
mod text_classification;
mod text_generation;
mod token_classification;
mod vectors;
mod watch;

pub use crate::settings::{Aggregation, Join, Settings, Similarity};
pub use fill_mask::{Fill, MOST_MASKS};
pub use id::Task;
pub use model::Model;
pub use options::PipelineOptions;
pub use pipeline::{Pipeline, Query};
pub use prediction::{Predicted, Prediction};
pub use question_answering::Span;
pub use scoring::{Agreement, EngineScore, Scoring, ScoringRequest};
pub use table::{labelled_rows, scoring};
pub use text_classification::Labels;
pub use text_generation::{generator_of, not_applied, open_generator};
pub use token_classification::{Entity, Word};
