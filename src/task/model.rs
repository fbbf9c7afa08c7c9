//! What there is to know of a model whose outputs are read.

use super::id::Task;
use crate::bundle::Bundle;
use crate::runtime::{Classes, Slide, TextInput};

/// A model's task, and how its outputs are read.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its task.
    pub task: Task,
    /// Its labels, where classes have names.
    pub classes: Classes,
    /// Whether it was trained on contexts before their questions.
    pub context_first: bool,
}

impl Model {
    /// A model of that task which reads questions before their contexts.
    pub fn new(task: Task, classes: Classes) -> Model {
        Model { task, classes, context_first: false }
    }

    /// The model of a bundle.
    pub(super) fn of_bundle(bundle: &Bundle) -> Model {
        let manifest = &bundle.manifest;
        Model { context_first: manifest.context_first, ..Model::new(manifest.task, bundle.classes()) }
    }

    /// The two texts of a question in the order in which the model reads them.
    pub(super) fn ordered<'a>(&self, input: TextInput<'a>) -> TextInput<'a> {
        match (self.task.reads_questions(), self.context_first, input) {
            (true, true, TextInput { text, pair: Some(context) }) => TextInput { text: context, pair: Some(text) },
            _ => input,
        }
    }

    /// Which text of a pair the windows slide over: the one that holds the answer.
    pub(super) fn slide(&self) -> Slide {
        match self.task.reads_questions() && self.context_first {
            true => Slide::First,
            false => Slide::Second,
        }
    }
}
