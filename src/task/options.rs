//! Options of a pipeline.

use super::model::Model;
use crate::error::{Error, Result};
use crate::runtime::{Lengths, TextEncoder, TextInput};
use crate::settings::Settings;

/// Options of a pipeline.
#[derive(Clone, Copy, Debug)]
pub struct PipelineOptions {
    /// The settings that a bundle can have too: a field that is not set here is the bundle's, or else the default.
    pub settings: Settings,
    /// How many windows are run together. One isolates predictions: engines in 8 bits with dynamic ranges scale a whole
    /// batch at once.
    pub batch: usize,
}

impl Default for PipelineOptions {
    fn default() -> PipelineOptions {
        PipelineOptions { settings: Settings::default(), batch: 1 }
    }
}

impl From<Settings> for PipelineOptions {
    fn from(settings: Settings) -> PipelineOptions {
        PipelineOptions { settings, ..PipelineOptions::default() }
    }
}

impl PipelineOptions {
    /// These, and those of a bundle where they are not set.
    pub(super) fn over(self, bundle: Settings) -> PipelineOptions {
        PipelineOptions { settings: self.settings.over(bundle), ..self }
    }
}

/// The windows that texts are cut into. Fails where they cannot be, or they need something that the model lacks.
pub(super) fn lengths(options: &PipelineOptions, model: &Model, longest: usize) -> Result<Lengths> {
    options.settings.check(model.task, longest)?;
    if options.batch == 0 {
        return Err(Error::bad_input("a batch of 0 texts"));
    }
    Ok(of_settings(&options.settings, model, longest))
}

fn of_settings(settings: &Settings, model: &Model, longest: usize) -> Lengths {
    let (window, stride) = settings.window_and_stride(longest);
    Lengths { window, stride, truncate: settings.truncate.unwrap_or_default(), slide: model.slide() }
}

impl Model {
    /// Fails where windows as `settings` have them leave no room for a text beside the part of every window: the tokens
    /// around it and, where there is one, a question of one word.
    pub fn check_room(&self, settings: &Settings, encoder: &TextEncoder) -> Result<()> {
        if settings.window.is_none() && settings.stride.is_none() {
            return Ok(());
        }
        let lengths = of_settings(settings, self, encoder.max_length);
        let text = "a ".repeat(lengths.window + 1);
        let tokenized = match self.task.reads_questions() {
            true => self.ordered(TextInput::question("a", &text)),
            false => TextInput::from(text.as_str()),
        };
        // Cutting needs room as well, but shares nothing.
        let stride = if lengths.truncate { 0 } else { lengths.stride };
        let split = encoder.split(&[tokenized], &Lengths { truncate: false, stride, ..lengths });
        split.map(|_| ()).map_err(|e| Error::bad_input(e.message()).hint("a longer window, or a smaller stride"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Classes;
    use crate::task::id::Task;

    #[test]
    fn invalid_windows_and_strides_are_refused() {
        let model = Model::new(Task::TextClassification, Classes::default());
        let said = |options: PipelineOptions| lengths(&options, &model, 64).unwrap_err().message().to_owned();
        let none = Settings::default();
        let window = |n| Settings { window: Some(n), ..none }.into();
        assert_eq!(said(window(65)), "a window of 65 tokens is outside 2…64");
        assert_eq!(said(window(1)), "a window of 1 tokens is outside 2…64");
        let expected = "the stride is 64, which is no less than the window of 64 tokens";
        assert_eq!(said(Settings { stride: Some(64), ..none }.into()), expected);
        assert_eq!(said(PipelineOptions { batch: 0, ..PipelineOptions::default() }), "a batch of 0 texts");
        assert_eq!(said(Settings { top_k: Some(0), ..none }.into()), "0 predictions are requested");
        let expected = "`no_answer` is for question-answering; this model is for text-classification";
        assert_eq!(said(Settings { no_answer: Some(true), ..none }.into()), expected);
        assert_eq!(lengths(&PipelineOptions::default(), &model, 64).unwrap().stride, 16);
    }
}
