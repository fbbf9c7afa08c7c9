//! Kinds of a model's inputs and outputs, and the one table of their names outside.
//!
//! The names are those that Optimum and Transformers.js read. Nothing else in kilnc compares names: a module asks for a
//! [`PortKind`].

use std::borrow::Cow;

/// The kind of an input or an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortKind {
    /// Token ids, `i64[b, s]`.
    TokenIds,
    /// 1 for each token and 0 for padding, `i64[b, s]`; where there is a cache, over its tokens too.
    AttentionMask,
    /// The text of a pair that a token is of, `i64[b, s]`.
    TokenTypes,
    /// The position of each token, `i64[b, s]`.
    PositionIds,
    /// Cached keys of a layer, `[b, kv, past, d]`.
    PastKey(usize),
    /// Cached values of a layer, `[b, kv, past, d]`.
    PastValue(usize),
    /// The last inputs of a layer's convolution, `[b, c, k − 1]`; zeros before the first run.
    PastConv(usize),
    /// Logits of classes `[b, c]`, of classes for each token `[b, s, c]`, or of the vocabulary `[b, s, v]`; the task decides
    /// which.
    Logits,
    /// For each token the logit that an answer begins there, `[b, s]`.
    StartLogits,
    /// For each token the logit that an answer ends there, `[b, s]`.
    EndLogits,
    /// Hidden states, `[b, s, h]`.
    Hidden,
    /// The output of a pooler, `[b, h]`.
    Pooled,
    /// Hidden states before they are pooled to an embedding, `[b, s, h]`.
    TokenEmbeddings,
    /// One vector for each text, `[b, h]`.
    Embedding,
    /// Keys of a layer with those of this run, `[b, kv, past + s, d]`.
    PresentKey(usize),
    /// Values of a layer with those of this run, `[b, kv, past + s, d]`.
    PresentValue(usize),
    /// The last inputs of a layer's convolution after this run, `[b, c, k − 1]`.
    PresentConv(usize),
}

/// Names without a number, inputs before outputs.
const NAMES: [(PortKind, &str); 11] = [
    (PortKind::TokenIds, "input_ids"),
    (PortKind::AttentionMask, "attention_mask"),
    (PortKind::TokenTypes, "token_type_ids"),
    (PortKind::PositionIds, "position_ids"),
    (PortKind::Logits, "logits"),
    (PortKind::StartLogits, "start_logits"),
    (PortKind::EndLogits, "end_logits"),
    (PortKind::Hidden, "last_hidden_state"),
    (PortKind::Pooled, "pooler_output"),
    (PortKind::TokenEmbeddings, "token_embeddings"),
    (PortKind::Embedding, "sentence_embedding"),
];

/// The kind of a layer, and its name as the part before the layer's number and after it.
type Numbered = (fn(usize) -> PortKind, &'static str, &'static str);

/// Names with the number of a layer.
const NUMBERED: [Numbered; 6] = [
    (PortKind::PastKey, "past_key_values.", ".key"),
    (PortKind::PastValue, "past_key_values.", ".value"),
    (PortKind::PastConv, "past_conv.", ""),
    (PortKind::PresentKey, "present.", ".key"),
    (PortKind::PresentValue, "present.", ".value"),
    (PortKind::PresentConv, "present_conv.", ""),
];

/// The axis of keys and values that grows with each run.
pub const CACHE_AXIS: usize = 2;

impl PortKind {
    /// Its name outside.
    pub fn name(self) -> Cow<'static, str> {
        if let Some((_, name)) = NAMES.iter().find(|(kind, _)| *kind == self) {
            return Cow::Borrowed(name);
        }
        let (PortKind::PastKey(layer)
        | PortKind::PastValue(layer)
        | PortKind::PastConv(layer)
        | PortKind::PresentKey(layer)
        | PortKind::PresentValue(layer)
        | PortKind::PresentConv(layer)) = self
        else {
            return Cow::Borrowed("");
        };
        let numbered = NUMBERED.iter().find(|(kind, ..)| kind(layer) == self);
        Cow::Owned(numbered.map(|(_, before, after)| format!("{before}{layer}{after}")).unwrap_or_default())
    }

    /// The kind of an input or output of that name; none where the name is not in the table.
    pub fn of(name: &str) -> Option<PortKind> {
        if let Some((kind, _)) = NAMES.iter().find(|(_, known)| *known == name) {
            return Some(*kind);
        }
        NUMBERED.iter().find_map(|(kind, before, after)| {
            let layer = name.strip_prefix(before)?.strip_suffix(after)?.parse().ok()?;
            // `+1` and `01` parse, and are no names of ours.
            Some(kind(layer)).filter(|kind| kind.name() == name)
        })
    }

    /// Whether `name` is its name.
    pub fn is(self, name: &str) -> bool {
        PortKind::of(name) == Some(self)
    }

    /// The input of the next run that this output is, where it is part of a state.
    pub fn next(self) -> Option<PortKind> {
        match self {
            PortKind::PresentKey(layer) => Some(PortKind::PastKey(layer)),
            PortKind::PresentValue(layer) => Some(PortKind::PastValue(layer)),
            PortKind::PresentConv(layer) => Some(PortKind::PastConv(layer)),
            _ => None,
        }
    }

    /// Whether it is an input that holds the state of runs before.
    pub fn is_past(self) -> bool {
        matches!(self, PortKind::PastKey(_) | PortKind::PastValue(_) | PortKind::PastConv(_))
    }

    /// The axis along which a state grows by the tokens of a run; none where a run replaces it by another of its size.
    pub fn grows(self) -> Option<usize> {
        match self {
            PortKind::PastKey(_) | PortKind::PastValue(_) | PortKind::PresentKey(_) | PortKind::PresentValue(_) => {
                Some(CACHE_AXIS)
            }
            _ => None,
        }
    }

    /// Whether it is logits.
    pub fn is_logits(self) -> bool {
        matches!(self, PortKind::Logits | PortKind::StartLogits | PortKind::EndLogits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_its_kind_are_one() {
        let layers = [0, 1, 12].into_iter().flat_map(|i| NUMBERED.map(|(kind, ..)| kind(i)));
        let kinds: Vec<PortKind> = NAMES.iter().map(|(kind, _)| *kind).chain(layers).collect();
        for kind in &kinds {
            assert_eq!(PortKind::of(&kind.name()), Some(*kind));
        }
        assert_eq!(PortKind::PastKey(3).name(), "past_key_values.3.key");
        assert_eq!(PortKind::PresentValue(11).name(), "present.11.value");
        assert_eq!(PortKind::PastConv(3).name(), "past_conv.3");
    }

    #[test]
    fn other_names_are_of_no_kind() {
        let others =
            ["", "ids", "present..key", "present.01.key", "present.+1.key", "past_key_values.0.keys", "Logits"];
        for name in others.into_iter().chain(["past_conv.", "past_conv.01", "present_conv"]) {
            assert_eq!(PortKind::of(name), None, "{name}");
        }
    }

    #[test]
    fn a_cache_is_read_by_the_next_run() {
        assert_eq!(PortKind::PresentKey(2).next(), Some(PortKind::PastKey(2)));
        assert_eq!(PortKind::PresentValue(2).next(), Some(PortKind::PastValue(2)));
        assert_eq!(PortKind::PresentConv(2).next(), Some(PortKind::PastConv(2)));
        assert_eq!((PortKind::PastKey(2).grows(), PortKind::PastConv(2).grows()), (Some(2), None));
        assert_eq!(PortKind::Logits.next(), None);
    }
}
