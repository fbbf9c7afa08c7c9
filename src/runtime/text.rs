//! From texts to the inputs of an engine.

use std::path::Path;

use tokenizers::{Encoding, Tokenizer, TruncationParams};

use super::{Elements, Named, Tensor};
use crate::error::{Error, Result, printable_sentence};

/// A tokenizer with the model's limits.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    pad: i64,
    /// Longest sequence that is made, in tokens; longer texts are cut.
    pub max_length: usize,
}

impl TextEncoder {
    /// Opens a `tokenizer.json`. Its own truncation and padding do not count: `max_length` is the model's, and a batch
    /// is padded to its longest text.
    pub fn open(path: &Path, max_length: usize) -> Result<TextEncoder> {
        let malformed = |e: tokenizers::Error| {
            Error::bad_input(format!("tokenizer.json: {}", printable_sentence(&e.to_string())))
                .at(path.display().to_string())
        };
        if !path.is_file() {
            return Err(Error::bad_input(format!("{} is missing", path.display()))
                .hint("save the fast tokenizer beside the model: tokenizer.save_pretrained(DIR)"));
        }
        let mut tokenizer = Tokenizer::from_file(path).map_err(malformed)?;
        let pad = tokenizer.get_padding().map(|padding| padding.pad_id);
        let pad = pad.or_else(|| tokenizer.token_to_id("[PAD]")).or_else(|| tokenizer.token_to_id("<pad>"));
        let truncation = TruncationParams { max_length, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(malformed)?;
        tokenizer.with_padding(None);
        Ok(TextEncoder { tokenizer, pad: i64::from(pad.unwrap_or(0)), max_length })
    }

    /// The number of tokens of a text, without its cut.
    pub fn length(&self, text: &str) -> Result<usize> {
        Ok(self.encode_one(text)?.get_ids().len())
    }

    /// The inputs for a batch of texts, padded to the longest.
    pub fn encode(&self, texts: &[&str]) -> Result<Named> {
        let encodings = texts.iter().map(|text| self.encode_one(text)).collect::<Result<Vec<_>>>()?;
        let longest = encodings.iter().map(|e| e.get_ids().len()).max().unwrap_or(0);
        if longest == 0 {
            return Err(Error::bad_input("there is no text to encode"));
        }
        let tensor = |read: fn(&Encoding) -> &[u32], fill: i64| {
            let mut values = Vec::with_capacity(longest * encodings.len());
            for encoding in &encodings {
                let row = read(encoding);
                values.extend(row.iter().map(|id| i64::from(*id)));
                values.extend(std::iter::repeat_n(fill, longest - row.len()));
            }
            Tensor { shape: vec![encodings.len(), longest], elements: Elements::I64(values) }
        };
        Ok(vec![
            ("input_ids".to_owned(), tensor(Encoding::get_ids, self.pad)),
            ("attention_mask".to_owned(), tensor(Encoding::get_attention_mask, 0)),
            ("token_type_ids".to_owned(), tensor(Encoding::get_type_ids, 0)),
        ])
    }

    fn encode_one(&self, text: &str) -> Result<Encoding> {
        self.tokenizer.encode(text, true).map_err(|e| {
            Error::bad_input(format!("a text cannot be tokenized: {}", printable_sentence(&e.to_string())))
        })
    }
}
