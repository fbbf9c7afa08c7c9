//! The labels of a text.

use serde::Serialize;

use crate::runtime::{Choice, Classification};

/// The labels of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Labels {
    /// The model's classes.
    #[serde(flatten)]
    pub prediction: Classification,
    /// The top-k labels, chosen or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<Vec<Choice>>,
}
