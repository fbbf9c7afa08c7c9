//! Where the masks of a text are.

use crate::error::{Error, Result};
use crate::runtime::TextEncoder;
use crate::task::batches::Tokenized;

/// Most masks of one text: each prediction holds the whole text again.
pub const MOST_MASKS: usize = 100;

/// The tokenizer's token for a mask, and its name.
pub(super) fn mask_of(encoder: &TextEncoder) -> Result<(u32, &str)> {
    encoder.mask().ok_or_else(|| {
        Error::unsupported("the tokenizer has no token for a mask").hint("the known ones are [MASK] and <mask>")
    })
}

/// The positions of the masks among the tokens of a text. Fails where there are none, or more than are filled.
pub(super) fn positions(encoder: &TextEncoder, ids: impl Iterator<Item = Option<u32>>) -> Result<Vec<usize>> {
    let (mask, name) = mask_of(encoder)?;
    let masks: Vec<usize> = ids.enumerate().filter(|(_, id)| *id == Some(mask)).map(|(at, _)| at).collect();
    match masks.len() {
        0 => Err(Error::bad_input(format!("there is no {name} in the text"))
            .hint(format!("write {name} for each token to be predicted"))),
        found if found > MOST_MASKS => {
            Err(Error::bad_input(format!("{found} times {name} in one text, at most {MOST_MASKS} are filled")))
        }
        _ => Ok(masks),
    }
}

/// The masks of a text, all of which are in a window.
pub(super) fn masks(encoder: &TextEncoder, tokenized: &Tokenized) -> Result<Vec<usize>> {
    let masks = positions(encoder, (0..tokenized.encoded.len()).map(|token| tokenized.encoded.id(token)))?;
    match masks.iter().find(|mask| tokenized.encoded.window_of(**mask).is_none()) {
        Some(_) => {
            let (_, name) = mask_of(encoder)?;
            Err(Error::bad_input(format!("a {name} was cut off with the end of the text"))
                .hint("without --truncate a text is read in windows"))
        }
        None => Ok(masks),
    }
}
