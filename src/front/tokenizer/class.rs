//! The classes of tokenizers in `transformers`: their defaults where `tokenizer_config.json` sets nothing, and what of
//! `tokenizer.json` it changes.

/// The special tokens of BERT's tokenizer.
const BERT_TOKENS: &[(&str, &str)] = &[
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// Those of RoBERTa's.
const ROBERTA_TOKENS: &[(&str, &str)] = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];

/// Those of MPNet's.
const MPNET_TOKENS: &[(&str, &str)] = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "[UNK]"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];

/// Those of ALBERT's.
const ALBERT_TOKENS: &[(&str, &str)] = &[
    ("bos_token", "[CLS]"),
    ("eos_token", "[SEP]"),
    ("unk_token", "<unk>"),
    ("sep_token", "[SEP]"),
    ("pad_token", "<pad>"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// Those of DeBERTa's second version.
const DEBERTA_TOKENS: &[(&str, &str)] = &[
    ("bos_token", "[CLS]"),
    ("eos_token", "[SEP]"),
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// Those of XLNet's.
const XLNET_TOKENS: &[(&str, &str)] = &[
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "<sep>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<cls>"),
    ("mask_token", "<mask>"),
];

/// Those of GPT-2's.
const GPT2_TOKENS: &[(&str, &str)] =
    &[("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>")];

/// Those of Llama's.
const LLAMA_TOKENS: &[(&str, &str)] = &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")];

/// Those of Gemma's.
const GEMMA_TOKENS: &[(&str, &str)] =
    &[("bos_token", "<bos>"), ("eos_token", "<eos>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];

/// Those of Cohere's.
const COHERE_TOKENS: &[(&str, &str)] =
    &[("bos_token", "<BOS_TOKEN>"), ("eos_token", "<|END_OF_TURN_TOKEN|>"), ("unk_token", "<UNK>")];

/// Those of BLOOM's.
const BLOOM_TOKENS: &[(&str, &str)] =
    &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];

/// Those of Qwen2's.
const QWEN2_TOKENS: &[(&str, &str)] =
    &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")];

/// What a class's changes of the parts of `tokenizer.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    AsIs,
    /// Sets lower case, accents and Chinese characters of a `BertNormalizer`.
    Bert,
    /// The same, by lower case and accents alone.
    MpNet,
    /// Sets prefix space and offsets of byte-level parts.
    Roberta,
    /// SentencePiece's, of XLM-RoBERTa and CamemBERT.
    XlmRoberta,
    /// ALBERT's.
    Albert,
    /// That of DeBERTa's second version.
    Deberta,
    /// XLNet's.
    XlNet,
    /// GPT-2's.
    Gpt2,
    /// OpenAI GPT's.
    OpenAiGpt,
    /// Sets the tokens around texts by `add_bos_token` and `add_eos_token`.
    Framed,
}

/// A class of tokenizers.
#[derive(Debug)]
pub(super) struct Class {
    /// Its name, without `Fast` at the end.
    pub name: &'static str,
    pub kind: Kind,
    /// The special tokens that it has where no file names others.
    pub tokens: &'static [(&'static str, &'static str)],
    /// More of them, without a part to play.
    pub more_tokens: &'static [&'static str],
    /// Whether its mask takes the space before it.
    pub mask_strips: bool,
    /// Whether texts begin with its first token where no file says so.
    pub begins: bool,
    /// Whether texts are padded on the left where no file says so.
    pub pads_left: bool,
    /// Whether it has token types, in transformers 4 and in 5.
    pub types: [bool; 2],
}

const fn class(name: &'static str, kind: Kind, tokens: &'static [(&'static str, &'static str)]) -> Class {
    Class {
        name,
        kind,
        tokens,
        more_tokens: &[],
        mask_strips: false,
        begins: false,
        pads_left: false,
        types: [false; 2],
    }
}

/// BERT's and those that are made like it.
const fn bert(name: &'static str) -> Class {
    Class { types: [true; 2], ..class(name, Kind::Bert, BERT_TOKENS) }
}

const fn roberta(name: &'static str) -> Class {
    Class { mask_strips: true, ..class(name, Kind::Roberta, ROBERTA_TOKENS) }
}

/// Llama's and those that are made like it.
const fn llama(name: &'static str, tokens: &'static [(&'static str, &'static str)]) -> Class {
    Class { begins: true, pads_left: true, ..class(name, Kind::Framed, tokens) }
}

/// The one that takes `tokenizer.json` as it is. Transformers 5 has no token types for it.
const AS_IS: Class = Class { types: [true, false], ..class("PreTrainedTokenizerFast", Kind::AsIs, &[]) };

static CLASSES: &[Class] = &[
    Class { mask_strips: true, types: [true, false], ..class("AlbertTokenizer", Kind::Albert, ALBERT_TOKENS) },
    roberta("BartTokenizer"),
    bert("BertTokenizer"),
    class("BloomTokenizer", Kind::AsIs, BLOOM_TOKENS),
    Class {
        more_tokens: &["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"],
        mask_strips: true,
        ..class("CamembertTokenizer", Kind::XlmRoberta, ROBERTA_TOKENS)
    },
    class("CodeGenTokenizer", Kind::AsIs, GPT2_TOKENS),
    llama("CohereTokenizer", COHERE_TOKENS),
    bert("ConvBertTokenizer"),
    Class { types: [true; 2], ..class("DebertaV2Tokenizer", Kind::Deberta, DEBERTA_TOKENS) },
    Class { types: [false; 2], ..bert("DistilBertTokenizer") },
    bert("ElectraTokenizer"),
    class("GPT2Tokenizer", Kind::Gpt2, GPT2_TOKENS),
    class("GPTNeoXTokenizer", Kind::Framed, GPT2_TOKENS),
    llama("GemmaTokenizer", GEMMA_TOKENS),
    bert("LayoutLMTokenizer"),
    llama("LlamaTokenizer", LLAMA_TOKENS),
    roberta("LongformerTokenizer"),
    bert("LxmertTokenizer"),
    Class { mask_strips: true, ..class("MPNetTokenizer", Kind::MpNet, MPNET_TOKENS) },
    bert("MobileBertTokenizer"),
    class("OpenAIGPTTokenizer", Kind::OpenAiGpt, &[("unk_token", "<unk>")]),
    AS_IS,
    Class { name: "PreTrainedTokenizer", ..AS_IS },
    class("Qwen2Tokenizer", Kind::AsIs, QWEN2_TOKENS),
    roberta("RobertaTokenizer"),
    bert("SqueezeBertTokenizer"),
    Class { name: "TokenizersBackend", ..AS_IS },
    Class { mask_strips: true, ..class("XLMRobertaTokenizer", Kind::XlmRoberta, ROBERTA_TOKENS) },
    Class {
        more_tokens: &["<eop>", "<eod>"],
        mask_strips: true,
        pads_left: true,
        types: [true, false],
        ..class("XLNetTokenizer", Kind::XlNet, XLNET_TOKENS)
    },
];

/// The classes of families whose files name none.
const OF_FAMILIES: &[(&str, &str)] = &[
    ("albert", "AlbertTokenizer"),
    ("bert", "BertTokenizer"),
    ("bloom", "BloomTokenizer"),
    ("camembert", "CamembertTokenizer"),
    ("cohere", "CohereTokenizer"),
    ("deberta-v2", "DebertaV2Tokenizer"),
    ("distilbert", "DistilBertTokenizer"),
    ("electra", "ElectraTokenizer"),
    ("gemma", "GemmaTokenizer"),
    ("gemma2", "GemmaTokenizer"),
    ("gemma3_text", "GemmaTokenizer"),
    ("gpt2", "GPT2Tokenizer"),
    ("gpt_neox", "GPTNeoXTokenizer"),
    ("granite", "GPT2Tokenizer"),
    ("llama", "LlamaTokenizer"),
    ("mistral", "LlamaTokenizer"),
    ("mpnet", "MPNetTokenizer"),
    ("olmo2", "GPTNeoXTokenizer"),
    ("openai-gpt", "OpenAIGPTTokenizer"),
    ("opt", "GPT2Tokenizer"),
    ("phi", "CodeGenTokenizer"),
    ("phi3", "LlamaTokenizer"),
    ("qwen2", "Qwen2Tokenizer"),
    ("qwen3", "Qwen2Tokenizer"),
    ("qwen3_moe", "Qwen2Tokenizer"),
    ("roberta", "RobertaTokenizer"),
    ("starcoder2", "GPT2Tokenizer"),
    ("xlm-roberta", "XLMRobertaTokenizer"),
    ("xlnet", "XLNetTokenizer"),
];

impl Class {
    /// The class of a name, with or without `Fast` at its end.
    pub fn named(name: &str) -> Option<&'static Class> {
        // This one's name ends so.
        let base = if name == AS_IS.name { name } else { name.strip_suffix("Fast").unwrap_or(name) };
        CLASSES.iter().find(|class| class.name == base)
    }

    /// The one that takes `tokenizer.json` as it is.
    pub fn as_is() -> &'static Class {
        Class::named(AS_IS.name).unwrap_or(&AS_IS)
    }

    /// The class of a family's tokenizers, where no file names one.
    pub fn of_family(model_type: &str) -> &'static Class {
        let named = OF_FAMILIES.iter().find(|(family, _)| *family == model_type);
        named.and_then(|(_, name)| Class::named(name)).unwrap_or_else(Class::as_is)
    }

    /// The content of a special token where no file has it.
    pub fn token(&self, key: &str) -> Option<&'static str> {
        self.tokens.iter().find(|(own, _)| *own == key).map(|(_, token)| *token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_class_and_fast_ones_are_found_too() {
        for (family, name) in OF_FAMILIES {
            assert_eq!(Class::of_family(family).name, *name);
            assert_eq!(Class::named(&format!("{name}Fast")).unwrap().name, *name);
        }
        assert_eq!(Class::of_family("modernbert").kind, Kind::AsIs);
        assert_eq!(Class::named("PreTrainedTokenizerFast").unwrap().kind, Kind::AsIs);
        assert!(Class::named("BertJapaneseTokenizer").is_none());
    }
}
