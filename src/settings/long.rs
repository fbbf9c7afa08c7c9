//! Texts that are longer than a model was trained on, of models whose angles follow the length of a text.

use serde::{Deserialize, Serialize};

/// What becomes of the state of a text that outgrows the length from which all of its tokens are turned by other
/// angles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongTexts {
    /// Most tokens of a text whose angles do not follow its length. A longer one has the outputs of its whole where it
    /// is run at once, and others where it is run in pieces, whose keys keep the angles that they had.
    pub after: usize,
    /// Whether the text is run anew once it is longer, as Phi-3's class in `transformers` does.
    #[serde(default)]
    pub restart: bool,
}
