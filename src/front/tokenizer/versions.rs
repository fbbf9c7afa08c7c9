//! The parts of a `tokenizer.json` as each version of `transformers` has them.

use super::class::Kind;
use super::options::Options;
use super::parts::{Number, Parts, set, trimmed};
use super::{Version, five};

impl Parts {
    /// The parts as a version of `transformers` has them.
    pub fn by(&self, version: Version, options: &Options, number: &Number) -> Parts {
        let parts = match version {
            Version::Four => self.by_four(options, number),
            Version::Five => five::parts(self, options, number),
        };
        Parts { types: options.gives_types(version), ..parts }
    }

    /// Version 4 changes the parts that differ from its arguments, where the parts are of the kinds that it knows.
    fn by_four(&self, options: &Options, number: &Number) -> Parts {
        let mut parts = self.clone();
        let lower = options.do_lower_case.unwrap_or(true);
        match options.class.kind {
            // It fails without a normalizer; 5 makes one.
            Kind::Bert | Kind::MpNet if self.normalizer.is_null() => parts.normalizer = five::bert_normalizer(options),
            Kind::Bert => {
                set(&mut parts.normalizer, "BertNormalizer", "lowercase", lower.into());
                set(&mut parts.normalizer, "BertNormalizer", "strip_accents", options.strip_accents.into());
                let chinese = options.tokenize_chinese_chars;
                set(&mut parts.normalizer, "BertNormalizer", "handle_chinese_chars", chinese.into());
            }
            Kind::MpNet => {
                set(&mut parts.normalizer, "BertNormalizer", "lowercase", lower.into());
                set(&mut parts.normalizer, "BertNormalizer", "strip_accents", options.strip_accents.into());
            }
            Kind::Roberta => parts.post_processor = trimmed(&self.post_processor, options),
            // It fails where a token that is asked for is missing.
            Kind::Framed => {
                parts.post_processor = five::framed(options, number).unwrap_or_default();
            }
            _ => {}
        }
        // In every class the default is no space.
        let prefix = options.add_prefix_space.unwrap_or(false);
        set(&mut parts.pre_tokenizer, "ByteLevel", "add_prefix_space", prefix.into());
        parts
    }
}
