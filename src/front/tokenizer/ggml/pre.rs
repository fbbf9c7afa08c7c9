//! Pre-tokenizers by the names that llama.cpp has for them: the patterns that texts are cut by before their bytes are merged.
//!
//! llama.cpp writes some patterns in another way, for its own engine; here they are as in the `tokenizer.json` of the models
//! that they are named after. Patterns follow each other: what one leaves is cut by the next.

use crate::error::{Error, Result, printable};

/// A pre-tokenizer.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    /// The patterns, in order.
    pub patterns: &'static [&'static str],
    /// Whether a piece that is a token is not cut by merges.
    pub whole_tokens: bool,
    /// Whether texts begin with a token where the file does not say so.
    pub begins: bool,
    /// Whether texts are composed first (NFC), which files do not say.
    pub composes: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], patterns: &[], whole_tokens: false, begins: false, composes: false };

static ALL: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ..PLAIN
    },
    PreTokenizer {
        names: &["gpt-2", "phi-2", "mpt", "jais", "mellum", "exaone4", "a.x-4.0", "trillion", "granite-docling"],
        patterns: &[GPT2],
        ..PLAIN
    },
    PreTokenizer { names: &["olmo"], patterns: &[GPT2], composes: true, ..PLAIN },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"],
        patterns: &[r"\p{N}", GPT2],
        ..PLAIN
    },
    PreTokenizer { names: &["command-r"], patterns: &[r"\p{N}", GPT2], composes: true, ..PLAIN },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"],
        patterns: &[LLAMA3],
        whole_tokens: true,
        begins: true,
        ..PLAIN
    },
    PreTokenizer { names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], patterns: &[LLAMA3], ..PLAIN },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "grok-2"],
        patterns: &[QWEN2],
        composes: true,
        ..PLAIN
    },
    PreTokenizer { names: &["tekken"], patterns: &[TEKKEN], whole_tokens: true, begins: true, ..PLAIN },
    PreTokenizer { names: &["gpt-4o", "llama4", "kanana2"], patterns: &[GPT4O], ..PLAIN },
    PreTokenizer {
        names: &["deepseek-coder"],
        patterns: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
        ..PLAIN
    },
];

impl PreTokenizer {
    /// The one of that name. Fails by name where there is none.
    pub fn named(name: &str) -> Result<&'static PreTokenizer> {
        let known = || ALL.iter().flat_map(|pre| pre.names).copied();
        ALL.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
            let all = known().collect::<Vec<_>>().join(", ");
            Error::unsupported(format!("the pre-tokenizer `{}` is not known", printable(name)))
                .hint(format!("known: {all}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_one_and_every_name_is_of_one() {
        let mut names: Vec<&str> = ALL.iter().flat_map(|pre| pre.names).copied().collect();
        for pattern in ALL.iter().flat_map(|pre| pre.patterns) {
            fancy_regex::Regex::new(pattern).unwrap();
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(PreTokenizer::named("qwen2").unwrap().composes);
    }
}
