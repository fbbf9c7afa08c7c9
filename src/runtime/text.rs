//! From texts to the inputs of an engine.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{Decoder, EncodeInput, Encoding, OffsetReferential, OffsetType, PreTokenizer, Tokenizer};

use super::tokenizer::{self, Checked};
use super::windows::{Encoded, Fixed, Lengths, Side, Window};
use super::{Elements, Named, Tensor};
use crate::error::{Error, Result, printable, printable_sentence};
use crate::json;
use crate::ports::PortKind;
use crate::presence;
use crate::settings::PairPrompt;

/// Longest text that is read, in bytes. It is cut to the model's length, but only after all of it was tokenized.
pub const LONGEST_TEXT: usize = 1 << 20;

/// Longest normalized form of a text that a tokenizer may make, in bytes.
const LONGEST_NORMALIZED: usize = 1 << 26;

/// Names of mask tokens.
const MASKS: [&str; 2] = ["[MASK]", "<mask>"];

/// A text, or a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextInput<'a> {
    /// The text, or the first of a pair.
    pub text: &'a str,
    /// The second of a pair.
    pub pair: Option<&'a str>,
}

impl<'a> TextInput<'a> {
    /// A question, and the text that holds the answer.
    pub fn question(question: &'a str, context: &'a str) -> TextInput<'a> {
        TextInput { text: question, pair: Some(context) }
    }
}

impl<'a> From<&'a str> for TextInput<'a> {
    fn from(text: &'a str) -> TextInput<'a> {
        TextInput { text, pair: None }
    }
}

impl<'a> From<&'a String> for TextInput<'a> {
    fn from(text: &'a String) -> TextInput<'a> {
        text.as_str().into()
    }
}

/// A tokenizer with the model's limits.
pub struct TextEncoder {
    tokenizer: Arc<Tokenizer>,
    growth: usize,
    pad: u32,
    unknown: Option<u32>,
    marks_subwords: bool,
    prompt: String,
    pair_prompt: Option<PairPrompt>,
    mask: Option<String>,
    side: Side,
    /// Longest sequence that is made, in tokens; longer texts are cut.
    pub max_length: usize,
}

impl TextEncoder {
    /// Opens a `tokenizer.json`. Of its own truncation and padding only the side of truncation counts, and the
    /// token of padding: `max_length` is the model's, and a batch is padded to its longest text.
    pub fn open(path: &Path, max_length: usize) -> Result<TextEncoder> {
        if !presence::has_file(path)? {
            return Err(Error::bad_input(format!("{} is missing", path.display()))
                .hint("save the fast tokenizer beside the model: tokenizer.save_pretrained(DIR)"));
        }
        TextEncoder::parse(json::read_text(path)?, max_length).map_err(|e| e.at(path.display().to_string()))
    }

    /// The same for the text of a file.
    pub fn parse(text: String, max_length: usize) -> Result<TextEncoder> {
        let Checked { mut tokenizer, growth, unknown, marks_subwords } = tokenizer::parse(text)?;
        let pad = tokenizer.get_padding().map(|padding| padding.pad_id);
        let pad = pad.or_else(|| tokenizer.token_to_id("[PAD]")).or_else(|| tokenizer.token_to_id("<pad>"));
        let side = match tokenizer.get_truncation().map(|truncation| truncation.direction) {
            Some(TruncationDirection::Left) => Side::Left,
            _ => Side::Right,
        };
        tokenizer.with_truncation(None).map_err(|e| tokenizer::malformed(&e))?;
        tokenizer.with_padding(None);
        let pad = pad.unwrap_or(0);
        let (prompt, mask) = (String::new(), None);
        Ok(TextEncoder {
            tokenizer: Arc::new(tokenizer),
            growth,
            pad,
            unknown,
            marks_subwords,
            prompt,
            pair_prompt: None,
            mask,
            side,
            max_length,
        })
    }

    /// Puts a prompt before every text, or before the first of a pair. Windows of a longer text all begin with it.
    pub fn with_prompt(self, prompt: Option<&str>) -> TextEncoder {
        TextEncoder { prompt: prompt.unwrap_or_default().to_owned(), ..self }
    }

    /// Puts a prompt around the texts of every pair, which become one text; nothing else is put around it.
    pub fn with_pair_prompt(self, prompt: Option<&PairPrompt>) -> TextEncoder {
        TextEncoder { pair_prompt: prompt.cloned(), ..self }
    }

    /// The prompt around the texts of a pair.
    pub fn pair_prompt(&self) -> Option<&PairPrompt> {
        self.pair_prompt.as_ref()
    }

    /// The prompt before every text; often none.
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// Sets the mask token, where it is none of the customary ones.
    pub fn with_mask(self, mask: Option<&str>) -> TextEncoder {
        TextEncoder { mask: mask.map(str::to_owned), ..self }
    }

    /// Fails where a token has no row in an embedding of so many: those of the vocabulary, those that are put around
    /// every text, and padding.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        let vocabulary = self.tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token));
        let around = self.encode_all(&["".into()])?;
        let around = around.iter().flat_map(|e| e.get_ids().iter().copied().zip(e.get_tokens().iter().cloned()));
        let largest = vocabulary.chain(around).chain([(self.pad, "padding".to_owned())]).max();
        match largest {
            Some((id, token)) if id as usize >= rows => Err(Error::bad_input(format!(
                "tokenizer.json: the token `{}` has the id {id}, but the embedding has {rows} rows",
                printable(&token)
            ))
            .hint("the tokenizer belongs to another model, or the embedding was not resized when tokens were added")),
            _ => Ok(()),
        }
    }

    /// Fails where the longest text has no room beside the tokens that are put around every text: all texts would be one.
    pub fn check_longest(&self) -> Result<()> {
        let around = self.encode_all(&["".into()])?.first().map_or(0, |encoding| encoding.get_ids().len());
        match self.max_length > around {
            true => Ok(()),
            false => Err(Error::bad_input(format!(
                "a longest text of {} tokens leaves none beside the {around} around every text; it has to be {} \
                 or more",
                self.max_length,
                around + 1
            ))),
        }
    }

    /// Whether a text or a pair of texts is longer than the model and is cut.
    pub fn is_cut<'a>(&self, text: impl Into<TextInput<'a>>) -> Result<bool> {
        Ok(self.split(&[text.into()], &Lengths::cut(self.max_length))?.iter().any(Encoded::is_cut))
    }

    /// The inputs for a batch of texts or pairs of texts, padded to the longest. The longer text of a pair is cut first.
    pub fn encode<'a, T: Copy + Into<TextInput<'a>>>(&self, texts: &[T]) -> Result<Named> {
        let texts: Vec<TextInput> = texts.iter().map(|text| (*text).into()).collect();
        let split = self.split(&texts, &Lengths::cut(self.max_length))?;
        let windows = split.iter().flat_map(|encoded| encoded.windows().iter().map(move |window| (encoded, window)));
        self.tensors(&windows.collect::<Vec<_>>())
    }

    /// Texts or pairs of texts as the windows that they are read in. Fails where a window has no room for the text.
    pub fn split(&self, texts: &[TextInput], lengths: &Lengths) -> Result<Vec<Encoded>> {
        let windows = |(encoding, text)| Encoded::new(encoding, lengths, self.fixed(text), self.side);
        self.encode_all(texts)?.into_iter().zip(texts).map(windows).collect()
    }

    /// The inputs for a batch of windows, padded to the longest.
    pub fn tensors(&self, windows: &[(&Encoded, &Window)]) -> Result<Named> {
        let longest = windows.iter().map(|(_, window)| window.tokens.len()).max().unwrap_or(0);
        if longest == 0 {
            return Err(Error::bad_input("there is no text to encode"));
        }
        let tensor = |read: fn(&Encoding) -> &[u32], fill: u32| {
            let mut values = Vec::with_capacity(longest * windows.len());
            for (encoded, window) in windows {
                let row = read(&encoded.encoding);
                let kept = window.tokens.iter().map(|token| row.get(*token).copied().unwrap_or(fill));
                values.extend(kept.chain(std::iter::repeat(fill)).take(longest).map(i64::from));
            }
            Tensor { shape: vec![windows.len(), longest], elements: Elements::I64(values) }
        };
        Ok(vec![
            (PortKind::TokenIds.name().into_owned(), tensor(Encoding::get_ids, self.pad)),
            (PortKind::AttentionMask.name().into_owned(), tensor(Encoding::get_attention_mask, 0)),
            (PortKind::TokenTypes.name().into_owned(), tensor(Encoding::get_type_ids, 0)),
        ])
    }

    /// The token ids of each text or pair of texts, with those that are put around every text.
    pub fn ids(&self, texts: &[TextInput]) -> Result<Vec<Vec<u32>>> {
        Ok(self.encode_all(texts)?.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
    }

    /// The token ids of texts as they are, which have the special tokens of their own: those that are put around every text
    /// are left out, and so is the prompt.
    pub fn plain_ids(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        texts.iter().try_for_each(|text| self.check_length(text.len()))?;
        let (tokenizer, texts): (_, Vec<String>) =
            (self.tokenizer.clone(), texts.iter().map(|text| (*text).to_owned()).collect());
        let encode = move |text: String| tokenizer.encode_fast(text, false).map_err(|e| not_tokenized(&e));
        let encoded: Vec<Encoding> = tokenizer::watched(move || texts.into_iter().map(encode).collect())?;
        Ok(encoded.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
    }

    /// The pieces of a text or pair of texts for the tokenizer's model: its words, or other splits,
    /// normalized, without the added tokens in it.
    pub fn words(&self, input: TextInput) -> Result<Vec<String>> {
        self.check(input)?;
        let (text, pair) = self.prompted(&input);
        let texts: Vec<String> = std::iter::once(text).chain(pair).collect();
        let tokenizer = self.tokenizer.clone();
        tokenizer::watched(move || {
            let words = texts.iter().map(|text| split(&tokenizer, text)).collect::<Result<Vec<_>>>()?;
            Ok(words.into_iter().flatten().collect())
        })
    }

    /// Every token and its number, in the order of the numbers.
    pub fn vocabulary(&self) -> Vec<(u32, String)> {
        let mut tokens: Vec<_> = self.tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        tokens
    }

    /// How tokens become text: the field `decoder` of `tokenizer.json`.
    pub(super) fn decoder(&self) -> Result<Value> {
        let written = serde_json::to_value(self.tokenizer.get_decoder());
        written.map_err(|e| Error::bug(format!("tokenizer.json: decoder: {e}")))
    }

    /// The mask token with its id, where the vocabulary has one.
    pub fn mask(&self) -> Option<(u32, &str)> {
        let customary = MASKS.into_iter().filter(|_| self.mask.is_none());
        let masks = self.mask.as_deref().into_iter().chain(customary);
        masks.into_iter().find_map(|mask| Some((self.tokenizer.token_to_id(mask)?, mask)))
    }

    /// The id of a token of the vocabulary.
    pub fn number(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The number of a special token, which has no place in texts, by how it stands in the vocabulary.
    pub fn special(&self, token: &str) -> Option<u32> {
        let added = self.tokenizer.get_added_vocabulary();
        self.tokenizer.token_to_id(token).filter(|_| added.is_special_token(token))
    }

    /// The number of padding.
    pub fn padding(&self) -> u32 {
        self.pad
    }

    /// The id of unknown tokens, where the tokenizer has one.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Whether tokens that go on with a word are marked as such.
    pub fn marks_subwords(&self) -> bool {
        self.marks_subwords
    }

    /// A token as in the vocabulary.
    pub fn token(&self, id: u32) -> String {
        self.tokenizer.id_to_token(id).unwrap_or_default()
    }

    /// The texts of rows of tokens, or their normalized form.
    pub fn joined(&self, rows: Vec<Vec<String>>) -> Result<Vec<String>> {
        let tokenizer = self.tokenizer.clone();
        tokenizer::watched(move || {
            let join = |tokens: Vec<String>| match tokenizer.get_decoder() {
                Some(decoder) => decoder.decode(tokens).map_err(|e| tokenizer::malformed(&e)),
                None => Ok(tokens.join(" ")),
            };
            rows.into_iter().map(join).collect()
        })
    }

    /// The texts of rows of token numbers, `plain` ones without those that the tokenizer puts around texts.
    pub fn decoded(&self, rows: Vec<Vec<u32>>, plain: bool) -> Result<Vec<String>> {
        let tokenizer = self.tokenizer.clone();
        let decode = move |ids: Vec<u32>| tokenizer.decode(&ids, plain).map_err(|e| tokenizer::malformed(&e));
        tokenizer::watched(move || rows.into_iter().map(decode).collect())
    }

    fn encode_all(&self, texts: &[TextInput]) -> Result<Vec<Encoding>> {
        texts.iter().try_for_each(|input| self.check(*input))?;
        let prompted = |input: &TextInput| self.prompted(input);
        let (tokenizer, texts): (_, Vec<_>) = (self.tokenizer.clone(), texts.iter().map(prompted).collect());
        let special = self.pair_prompt.is_none();
        let encode = move |(text, pair)| encode_one(&tokenizer, text, pair, special);
        tokenizer::watched(move || texts.into_iter().map(encode).collect())
    }

    /// The texts as they are tokenized.
    fn prompted(&self, TextInput { text, pair }: &TextInput) -> (String, Option<String>) {
        match &self.pair_prompt {
            None => (format!("{}{text}", self.prompt), pair.map(str::to_owned)),
            Some(PairPrompt { before, between, after }) => {
                let (query, document) = query_and_document(text, *pair);
                (format!("{before}{query}{between}{document}{after}"), None)
            }
        }
    }

    /// What of a text every window of it has.
    fn fixed(&self, TextInput { text, pair }: &TextInput) -> Fixed {
        let count = |text: &str| text.chars().count();
        match &self.pair_prompt {
            None => Fixed { first: count(&self.prompt), ..Fixed::default() },
            Some(PairPrompt { before, between, after }) => {
                let (query, document) = query_and_document(text, *pair);
                let (first, last) = (count(before) + count(query) + count(between), count(after));
                Fixed { first, last, length: first + count(document) + last }
            }
        }
    }

    fn check(&self, TextInput { text, pair }: TextInput) -> Result<()> {
        if let Some(PairPrompt { before, between, after }) = &self.pair_prompt {
            let pair = pair.unwrap_or_default();
            return self.check_length([before, text, between, pair, after].iter().map(|text| text.len()).sum());
        }
        self.check_length(text.len().saturating_add(self.prompt.len()))?;
        self.check_length(pair.map_or(0, str::len))
    }

    fn check_length(&self, bytes: usize) -> Result<()> {
        if bytes > LONGEST_TEXT {
            return Err(Error::bad_input(format!("a text of {bytes} bytes, at most {LONGEST_TEXT} are read")));
        }
        if bytes.saturating_mul(self.growth) > LONGEST_NORMALIZED {
            return Err(Error::unsupported(format!(
                "tokenizer.json: normalizer: its replacements can make a text of {bytes} bytes longer than \
                 {LONGEST_NORMALIZED}"
            )));
        }
        Ok(())
    }
}

/// The texts of a pair. A text alone, as a corpus for calibration has them, is a document.
fn query_and_document<'a>(text: &'a str, pair: Option<&'a str>) -> (&'a str, &'a str) {
    pair.map_or(("", text), |pair| (text, pair))
}

fn encode_one(tokenizer: &Tokenizer, text: String, pair: Option<String>, special: bool) -> Result<Encoding> {
    let input: EncodeInput = match pair {
        Some(pair) => (text, pair).into(),
        None => text.into(),
    };
    tokenizer.encode_char_offsets(input, special).map_err(|e| not_tokenized(&e))
}

/// The pieces of a text for the tokenizer's model.
fn split(tokenizer: &Tokenizer, text: &str) -> Result<Vec<String>> {
    let mut pieces = tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
    if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut pieces).map_err(|e| not_tokenized(&e))?;
    }
    let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
    Ok(pieces.into_iter().filter(|(_, _, added)| added.is_none()).map(|(piece, ..)| piece.to_owned()).collect())
}

fn not_tokenized(error: &tokenizers::Error) -> Error {
    Error::bad_input(format!("a text cannot be tokenized: {}", printable_sentence(&error.to_string())))
}
