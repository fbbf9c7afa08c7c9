//! The tokenizer and the chat templates of a file.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::missing;
use super::model::Model;
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::{CHAT_TEMPLATE, CHAT_TEMPLATES};
use crate::front::tokenizer::FILE;
use crate::front::tokenizer::ggml::{self, GgmlTokenizer, Pieces, TokenKind};

/// How the keys begin.
const KEYS: &str = "tokenizer.ggml.";

/// The key of the chat template, and how those of others begin.
const TEMPLATE: &str = "tokenizer.chat_template";

/// Longest chat template, in bytes.
const LONGEST_TEMPLATE: usize = 1 << 20;

/// Tokens that end a turn where the file names none, by their texts, as llama.cpp has them.
const TURN_ENDS: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<end_of_utterance>",
];

/// Keys that no text and no token of an answer depends on: infilling, and what is the tokenizer's name elsewhere.
const PASSED_OVER: [&str; 12] = [
    "fim_pre_token_id",
    "fim_suf_token_id",
    "fim_mid_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
    "prefix_token_id",
    "suffix_token_id",
    "middle_token_id",
    "mask_token_id",
    "seperator_token_id",
    "token_type_count",
];

/// A tokenizer, and what the configuration says of it.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    /// The token that begins a text.
    pub begin: Option<u32>,
    /// The tokens that end one, the file's own first.
    pub ends: Vec<u32>,
    /// The token that fills up a batch.
    pub padding: Option<u32>,
    /// The files, by their names in the Hub's layout.
    pub texts: BTreeMap<String, String>,
    /// Warnings.
    pub notes: Vec<String>,
}

/// Reads the tokenizer; none where the file has none.
pub(super) fn read(model: &Model) -> Result<Option<Vocabulary>> {
    let reader = Reader { model };
    let keys = &model.contents.keys;
    let Some(kind) = keys.text(&reader.key("model"))? else { return Ok(None) };
    match kind {
        "none" | "no_vocab" => Ok(None),
        "gpt2" | "llama" => reader.read(kind == "gpt2").map(Some),
        other => Err(Error::unsupported(format!("the tokenizer `{}` is not read", printable(other)))
            .at(format!("key `{}`", reader.key("model")))
            .hint("known: llama (SentencePiece's BPE), gpt2 (BPE over bytes)")),
    }
}

struct Reader<'a> {
    model: &'a Model<'a>,
}

impl<'a> Reader<'a> {
    fn key(&self, end: &str) -> String {
        format!("{KEYS}{end}")
    }

    fn read(&self, over_bytes: bool) -> Result<Vocabulary> {
        let keys = &self.model.contents.keys;
        PASSED_OVER.iter().for_each(|end| keys.pass_over(&self.key(end)));
        keys.pass_over("tokenizer.huggingface.json");
        let place = self.key("tokens");
        let tokens = keys.texts(&place)?.ok_or_else(|| missing(&place))?;
        let kinds = self.kinds(tokens.len())?;
        let id = |end: &str, usual: Option<u32>| self.token(end, tokens.len(), usual.filter(|_| !over_bytes));
        let (begin, end) = (id("bos_token_id", Some(1))?, id("eos_token_id", Some(2))?);
        let (unknown, padding) = (id("unknown_token_id", Some(0))?, id("padding_token_id", None)?);
        let turn_ends = [id("eot_token_id", None)?, id("eom_token_id", None)?];
        let (pieces, begins) = if over_bytes { self.merges()? } else { (self.scores(tokens.len())?, true) };
        let flag = |end: &str, usual: bool| Ok::<_, Error>(keys.flag(&self.key(end))?.unwrap_or(usual));
        let first = if flag("add_bos_token", begins)? { begin } else { None };
        let last = if flag("add_eos_token", false)? { end } else { None };
        self.refuse(over_bytes)?;
        let ends = ends(&tokens, end, turn_ends);
        let kinds: Vec<TokenKind> = kinds
            .into_iter()
            .enumerate()
            // A token that ends turns is no text, whatever its kind.
            .map(|(id, kind)| if ends.iter().any(|end| *end as usize == id) { TokenKind::Control } else { kind })
            .collect();
        let strips = self.strips()?;
        let tokenizer = GgmlTokenizer { tokens, kinds, pieces, unknown, begin: first, end: last, strips };
        let file = tokenizer.json().map_err(|e| e.at(format!("keys `{KEYS}…`")))?;
        let config = config(&tokenizer, [begin, end, unknown, padding]);
        let mut texts = self.templates()?;
        texts.insert(FILE.to_owned(), file);
        texts.insert("tokenizer_config.json".to_owned(), config.to_string());
        Ok(Vocabulary { begin, ends, padding, texts, notes: self.notes(over_bytes)? })
    }

    /// Whether added tokens take the spaces after them. Files do not say it; llama.cpp knows the models by their names.
    fn strips(&self) -> Result<bool> {
        let name = self.model.contents.keys.text("general.name")?.unwrap_or_default().to_lowercase();
        Ok(["phi-3", "phi3"].iter().any(|of| name.contains(of)))
    }

    fn kinds(&self, tokens: usize) -> Result<Vec<TokenKind>> {
        let key = self.key("token_type");
        match self.model.contents.keys.whole_numbers(&key)? {
            None => Ok(vec![TokenKind::Normal; tokens]),
            Some(kinds) => {
                self.one_for_each(&key, kinds.len(), tokens)?;
                Ok(kinds.into_iter().map(TokenKind::numbered).collect())
            }
        }
    }

    fn one_for_each(&self, key: &str, found: usize, tokens: usize) -> Result<()> {
        match found == tokens {
            true => Ok(()),
            false => Err(Error::bad_input(format!("expected one value for each of {tokens} tokens, found {found}"))
                .at(format!("key `{key}`"))),
        }
    }

    /// A token with a meaning. Fails where there is no such token.
    fn token(&self, end: &str, tokens: usize, usual: Option<u32>) -> Result<Option<u32>> {
        let key = self.key(end);
        let fits = |id: &usize| *id < tokens;
        match self.model.contents.keys.size(&key)? {
            None => Ok(usual.filter(|id| fits(&(*id as usize)))),
            Some(id) => {
                match u32::try_from(id).ok().filter(|_| fits(&id)) {
                    Some(id) => Ok(Some(id)),
                    None => Err(Error::bad_input(format!("expected one of {tokens} tokens, found {id}"))
                        .at(format!("key `{key}`"))),
                }
            }
        }
    }

    /// Merges with their pre-tokenizer, and whether texts begin with a token by it.
    fn merges(&self) -> Result<(Pieces<'a>, bool)> {
        let keys = &self.model.contents.keys;
        let key = self.key("merges");
        let merges = keys.texts(&key)?.ok_or_else(|| missing(&key))?;
        let pre = keys.text(&self.key("pre"))?.unwrap_or("default");
        Ok((Pieces::Merges { merges, pre }, ggml::begins(pre)))
    }

    fn scores(&self, tokens: usize) -> Result<Pieces<'a>> {
        let keys = &self.model.contents.keys;
        let key = self.key("scores");
        let scores = keys.numbers(&key)?.ok_or_else(|| missing(&key))?;
        self.one_for_each(&key, scores.len(), tokens)?;
        // Files of Llama name merges too, which llama.cpp does not read.
        keys.pass_over(&self.key("merges"));
        keys.pass_over(&self.key("pre"));
        Ok(Pieces::Scores { scores, space_prefix: keys.flag(&self.key("add_space_prefix"))?.unwrap_or(true) })
    }

    /// Options that are not built.
    fn refuse(&self, over_bytes: bool) -> Result<()> {
        let keys = &self.model.contents.keys;
        let flags = [("remove_extra_whitespaces", false), ("add_sep_token", false), ("add_space_prefix", !over_bytes)];
        for (end, admitted) in flags {
            if keys.flag(&self.key(end))? == Some(true) && !admitted {
                return Err(Error::unsupported("the option is not built").at(format!("key `{}`", self.key(end))));
            }
        }
        if over_bytes {
            // Merges count, not scores.
            keys.pass_over(&self.key("scores"));
        }
        Ok(())
    }

    fn notes(&self, over_bytes: bool) -> Result<Vec<String>> {
        let silent = over_bytes && !self.model.contents.keys.has(&self.key("pre"));
        Ok(silent
            .then(|| {
                format!(
                    "`{}` is missing: texts are cut as llama.cpp's `default` does, which few models are trained with",
                    self.key("pre")
                )
            })
            .into_iter()
            .collect())
    }

    /// The chat templates, by the files that the Hub's layout has for them.
    fn templates(&self) -> Result<BTreeMap<String, String>> {
        let keys = &self.model.contents.keys;
        keys.pass_over("tokenizer.chat_templates");
        let named: Vec<String> = keys.below(TEMPLATE).map(str::to_owned).collect();
        let mut texts = BTreeMap::new();
        for key in named.iter().filter(|key| *key != "tokenizer.chat_templates") {
            let text = keys.text(key)?.unwrap_or_default();
            let place = |e: Error| e.at(format!("key `{}`", printable(key)));
            if text.len() > LONGEST_TEMPLATE {
                return Err(place(Error::bad_input(format!(
                    "the chat template has {} bytes, at most {LONGEST_TEMPLATE} are read",
                    text.len()
                ))));
            }
            let file = match key.strip_prefix(TEMPLATE).and_then(|rest| rest.strip_prefix('.')) {
                None => CHAT_TEMPLATE.to_owned(),
                Some(name) => format!("{CHAT_TEMPLATES}/{}.jinja", file_name(name).map_err(place)?),
            };
            texts.insert(file, text.to_owned());
        }
        Ok(texts)
    }
}

/// A name of a template that can be one of a file.
fn file_name(name: &str) -> Result<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ['_', '-'].contains(&c);
    match !name.is_empty() && name.len() <= 64 && name.chars().all(is_plain) {
        true => Ok(name),
        false => Err(Error::bad_input("expected a name of letters, digits, `_` and `-`")),
    }
}

/// The tokens that end a text: the file's, those of turns, and those that llama.cpp knows by their texts.
fn ends(tokens: &[&str], end: Option<u32>, of_turns: [Option<u32>; 2]) -> Vec<u32> {
    let known = TURN_ENDS.iter().filter_map(|text| tokens.iter().position(|token| token == text));
    let known = known.filter_map(|id| u32::try_from(id).ok());
    let mut ends: Vec<u32> = Vec::new();
    for id in end.into_iter().chain(of_turns.into_iter().flatten()).chain(known) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    ends
}

/// `tokenizer_config.json`: `tokenizer.json` as it is, and the tokens that chat templates name.
fn config(tokenizer: &GgmlTokenizer, [begin, end, unknown, padding]: [Option<u32>; 4]) -> Value {
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.tokens.get(usize::try_from(id).ok()?));
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    config.insert("padding_side".to_owned(), json!("left"));
    let parts = [("bos_token", begin), ("eos_token", end), ("unk_token", unknown), ("pad_token", padding)];
    for (part, token) in parts {
        if let Some(token) = text(token) {
            config.insert(part.to_owned(), json!(token));
        }
    }
    Value::Object(config)
}
