//! The tokenizer of an ONNX model, which has none inside: that of `--tokenizer`, as the files beside it have it.

use std::path::{Path, PathBuf};

use super::Screen;
use kilnc::build::{Observer, TextConfig};
use kilnc::bundle;
use kilnc::error::{Result, printable};
use kilnc::json;
use kilnc::presence;
use kilnc::runtime::TextEncoder;
use kilnc::settings::Settings;
use kilnc::task::Task;

/// The default of the longest text in tokens: the positions of BERT and most after it.
pub const MAX_LENGTH: usize = 512;

/// A lone tokenizer.
pub struct LoneTokenizer {
    /// Its `tokenizer.json`.
    pub file: PathBuf,
    beside: Option<TextConfig>,
}

impl LoneTokenizer {
    /// Reads a `tokenizer.json`, or that of a folder, and warns of surprises.
    pub fn read(path: &Path, task: Option<Task>, screen: &Screen) -> Result<LoneTokenizer> {
        let file = if presence::is_dir(path)? { path.join(bundle::TOKENIZER) } else { path.to_owned() };
        let given = LoneTokenizer { beside: TextConfig::of(&file, task)?, file };
        given.beside.iter().flat_map(|beside| &beside.tokenizer.notes).for_each(|note| screen.warn(note));
        if let Some(prompt) = given.prompt() {
            screen.note(format!("`{}` is put before every text, as the model's default prompt", printable(prompt)));
        }
        Ok(given)
    }

    /// The defaults of predictions.
    pub fn settings(&self) -> Settings {
        self.beside.as_ref().map_or_else(Settings::default, |beside| beside.pipeline)
    }

    /// Whether it pads texts on the left.
    pub fn pads_left(&self) -> bool {
        self.beside.as_ref().is_some_and(|beside| beside.tokenizer.pads_left)
    }

    /// Longest text, in tokens.
    pub fn max_length(&self) -> usize {
        self.beside.as_ref().and_then(|beside| beside.max_length).unwrap_or(MAX_LENGTH)
    }

    /// The prompt before every text.
    pub fn prompt(&self) -> Option<&str> {
        self.beside.as_ref()?.prompt.as_ref().map(|prompt| prompt.text.as_str())
    }

    /// The text of a `tokenizer.json` with all options, where the file itself lacks some.
    pub fn changed(&self) -> Result<Option<&str>> {
        let Some(beside) = &self.beside else { return Ok(None) };
        let text = beside.tokenizer.text()?;
        Ok(Some(text).filter(|text| !json::read_text(&self.file).is_ok_and(|file| file == **text)))
    }

    /// The tokenizer, for texts up to so many tokens; for a task with masks, with its own mask.
    pub fn encoder(&self, max_length: usize, task: Option<Task>) -> Result<TextEncoder> {
        let Some(beside) = &self.beside else { return TextEncoder::open(&self.file, max_length) };
        let encoder = TextEncoder::parse(beside.tokenizer.text()?.to_owned(), max_length);
        let mask = beside.tokenizer.mask.as_deref().filter(|_| task.is_some_and(Task::fills_masks));
        Ok(encoder.map_err(|e| e.at(self.file.display().to_string()))?.with_prompt(self.prompt()).with_mask(mask))
    }
}
