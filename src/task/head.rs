//! The heads of models: what a task needs of a graph, as far as a model family sees it.
//!
//! A family builds a head and knows no task. Several tasks may use one head.

use crate::ports::PortKind;

/// What stands on top of the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// None: the hidden states themselves.
    HiddenStates,
    /// One vector for each text, by the modules of sentence-transformers.
    Embedding,
    /// One row of logits for each text.
    TextLogits,
    /// One row of logits for each token.
    TokenLogits,
    /// For each token whether a span begins there, and whether one ends there.
    SpanLogits,
    /// For each token logits over the vocabulary for the token itself, which reads those on both sides.
    MaskedTokens,
    /// For each token logits over the vocabulary for the token after it, and the cache that the next run reads.
    NextToken,
}

impl Head {
    /// Every head there is.
    pub const ALL: [Head; 7] = [
        Head::HiddenStates,
        Head::Embedding,
        Head::TextLogits,
        Head::TokenLogits,
        Head::SpanLogits,
        Head::MaskedTokens,
        Head::NextToken,
    ];

    /// The outputs that every model with this head has, in their order.
    pub fn outputs(self) -> &'static [PortKind] {
        match self {
            Head::HiddenStates => &[PortKind::Hidden],
            Head::Embedding => &[PortKind::TokenEmbeddings, PortKind::Embedding],
            Head::TextLogits | Head::TokenLogits | Head::MaskedTokens | Head::NextToken => &[PortKind::Logits],
            Head::SpanLogits => &[PortKind::StartLogits, PortKind::EndLogits],
        }
    }

    /// Whether a model with this head may have an output of that kind: one of those that every such model has, the
    /// pooled first token beside hidden states, or the cache of a layer.
    pub fn may_output(self, kind: PortKind) -> bool {
        match kind {
            PortKind::Pooled => self == Head::HiddenStates,
            PortKind::PresentKey(_) | PortKind::PresentValue(_) | PortKind::PresentConv(_) => self.has_cache(),
            kind => self.outputs().contains(&kind),
        }
    }

    /// Whether its logits are over the vocabulary.
    pub fn is_over_vocabulary(self) -> bool {
        matches!(self, Head::MaskedTokens | Head::NextToken)
    }

    /// Whether a run continues those before it, by a cache.
    pub fn has_cache(self) -> bool {
        self == Head::NextToken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_those_that_a_head_may_have() {
        for head in Head::ALL {
            assert!(head.outputs().iter().all(|kind| head.may_output(*kind)), "{head:?}");
            assert!(!head.may_output(PortKind::TokenIds), "{head:?}");
        }
        assert!(Head::HiddenStates.may_output(PortKind::Pooled) && !Head::Embedding.may_output(PortKind::Pooled));
        assert!(Head::NextToken.may_output(PortKind::PresentKey(3)));
        assert!(!Head::MaskedTokens.may_output(PortKind::PresentKey(3)));
    }
}
