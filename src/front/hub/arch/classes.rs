//! The classes of `transformers` that the models of a family are saved from, and the head of each; and what the layer
//! `classifier` is where no class is named.

use super::families::FAMILIES;
use super::family::Family;
use crate::error::{Error, Result};
use crate::task::head::Head;

/// The classes of an encoder, by what follows the family's name in theirs.
pub(super) const ENCODER: &[(&str, Head)] = &[
    ("Model", Head::HiddenStates),
    ("ForSequenceClassification", Head::TextLogits),
    ("ForTokenClassification", Head::TokenLogits),
    ("ForQuestionAnswering", Head::SpanLogits),
    ("ForMaskedLM", Head::MaskedTokens),
];

/// The head of a class of `transformers`, if it is built.
pub(super) fn head_of(class: &str) -> Option<Head> {
    let class = class.strip_prefix("TF").or(class.strip_prefix("Flax")).unwrap_or(class);
    FAMILIES.iter().find_map(|family| family.head_of(class.strip_prefix(family.class)?))
}

/// Whether a class, of any family or of none that is known, is that of models without a head.
pub fn is_bare(class: &str) -> bool {
    // These end like it, and have heads.
    const OTHERS: [&str; 3] = ["LMHeadModel", "DoubleHeadsModel", "AdapterModel"];
    class.ends_with("Model") && !OTHERS.iter().any(|other| class.ends_with(other))
}

impl Family {
    /// The head of the class whose name ends so.
    fn head_of(&self, ending: &str) -> Option<Head> {
        self.classes.iter().find(|(known, _)| *known == ending).map(|(_, head)| *head)
    }

    /// Whether it has a class with that head. Vectors of texts are made of its bare model.
    pub(super) fn has(&self, head: Head) -> bool {
        self.ending(head).is_some()
    }

    /// Whether its models continue texts.
    pub fn generates(&self) -> bool {
        self.has(Head::NextToken)
    }

    /// The classes that are built, for messages.
    pub(super) fn class_names(&self) -> String {
        self.classes.iter().map(|(ending, _)| format!("{}{ending}", self.class)).collect::<Vec<_>>().join(", ")
    }

    /// The end of the name of its class with that head.
    fn ending(&self, head: Head) -> Option<&'static str> {
        let of_class = if head == Head::Embedding { Head::HiddenStates } else { head };
        self.classes.iter().find(|(_, of)| *of == of_class).map(|(ending, _)| *ending)
    }

    /// The class with that head which belongs to `old`, another class of the family.
    pub fn class_with(&self, head: Head, old: &str) -> Result<String> {
        let ends = ["For", "LMHead", "DoubleHeads", "Model"].into_iter().filter_map(|end| old.find(end));
        let name = old.get(..ends.min().unwrap_or(old.len())).unwrap_or_default();
        let ending = self.ending(head);
        let none = || Error::bug(format!("{} has no class with the head {head:?}", self.model_type));
        ending.map(|ending| format!("{name}{ending}")).ok_or_else(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_keeps_its_family() {
        let class = |old: &str, head: Head| {
            let of = |family: &&Family| old.to_lowercase().starts_with(&family.model_type.replace('-', ""));
            FAMILIES.iter().find(of).unwrap().class_with(head, old).unwrap()
        };
        assert_eq!(class("GPT2DoubleHeadsModel", Head::NextToken), "GPT2LMHeadModel");
        assert_eq!(class("GPT2LMHeadModel", Head::TextLogits), "GPT2ForSequenceClassification");
        assert_eq!(class("OpenAIGPTLMHeadModel", Head::Embedding), "OpenAIGPTModel");
        assert_eq!(class("BertModel", Head::TextLogits), "BertForSequenceClassification");
        assert_eq!(class("XLMRobertaForMaskedLM", Head::TokenLogits), "XLMRobertaForTokenClassification");
        assert_eq!(class("ElectraForPreTraining", Head::HiddenStates), "ElectraModel");
        assert_eq!(class("XLNetLMHeadModel", Head::SpanLogits), "XLNetForQuestionAnsweringSimple");
        assert_eq!(class("MPNetForMaskedLM", Head::SpanLogits), "MPNetForQuestionAnswering");
    }

    #[test]
    fn a_class_says_its_head() {
        assert_eq!(head_of("BertForMaskedLM"), Some(Head::MaskedTokens));
        assert_eq!(head_of("XLNetForQuestionAnsweringSimple"), Some(Head::SpanLogits));
        assert_eq!(head_of("XLNetForQuestionAnswering"), None);
        assert_eq!(head_of("TFBertForQuestionAnswering"), Some(Head::SpanLogits));
        assert_eq!(head_of("FlaxRobertaModel"), Some(Head::HiddenStates));
        assert_eq!(head_of("BertLMHeadModel"), None);
        for family in FAMILIES {
            for (ending, head) in family.classes {
                assert_eq!(head_of(&format!("{}{ending}", family.class)), Some(*head), "{}", family.model_type);
                assert!(family.has(*head), "{}", family.model_type);
            }
        }
    }

    #[test]
    fn a_bare_class_has_no_head() {
        assert!(["BertModel", "JinaBertModel", "GPT2Model"].into_iter().all(is_bare));
        for other in ["BertLMHeadModel", "GPT2DoubleHeadsModel", "BertAdapterModel", "BertForMaskedLM", ""] {
            assert!(!is_bare(other), "{other}");
        }
    }
}
