//! What a model of each task says to a text.

use serde::Serialize;

use super::fill_mask::Fill;
use super::question_answering::Span;
use super::text_classification::Labels;
use super::token_classification::Entity;

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
    /// Sentence similarity of a pair: how alike the two are by their vectors, as [`crate::settings::Similarity`] of the
    /// settings has it.
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
