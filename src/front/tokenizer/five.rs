//! The parts that transformers 5 makes by a tokenizer's class. Of `tokenizer.json` it takes the vocabulary and
//! SentencePiece's table of characters.

use serde_json::{Value, json};

use super::class::Kind;
use super::options::Options;
use super::parts::{AROUND, Around, NORMALIZED, Number, Parts, Piece, SPLIT, bert_template, is, members, template};

/// The parts of a class, from those of the file.
pub(super) fn parts(file: &Parts, options: &Options, number: &Number) -> Parts {
    let mut parts = file.clone();
    parts.post_processor = around(options, number).unwrap_or(parts.post_processor);
    match options.class.kind {
        // Of these classes the file has what version 5 made; those that version 4 saved are read as 4 reads them.
        Kind::AsIs | Kind::Framed => {}
        Kind::Bert | Kind::MpNet => {
            parts.normalizer = bert_normalizer(options);
            parts.pre_tokenizer = json!({"type": "BertPreTokenizer"});
        }
        Kind::Roberta | Kind::Gpt2 => {
            parts.normalizer = Value::Null;
            let prefix = options.add_prefix_space.unwrap_or(false);
            parts.pre_tokenizer =
                json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
        }
        Kind::OpenAiGpt => {
            parts.normalizer = bert_normalizer_of(true, Value::Null, true);
            parts.pre_tokenizer = json!({"type": "BertPreTokenizer"});
        }
        Kind::XlmRoberta => {
            parts.normalizer = precompiled(&file.normalizer).unwrap_or(Value::Null);
            parts.pre_tokenizer = words(options.add_prefix_space.unwrap_or(true));
        }
        Kind::Albert => {
            let accents = options.keep_accents;
            parts.normalizer = sentence_piece(&file.normalizer, !accents, options.do_lower_case.unwrap_or(true));
            parts.pre_tokenizer = words(options.add_prefix_space.unwrap_or(true));
        }
        Kind::XlNet => {
            parts.normalizer = sentence_piece(&file.normalizer, true, options.do_lower_case.unwrap_or(false));
            parts.pre_tokenizer = words(true);
        }
        Kind::Deberta => {
            parts.normalizer = deberta_normalizer(options.do_lower_case.unwrap_or(false));
            parts.pre_tokenizer = deberta_split(options);
        }
    }
    unless_same(file, parts)
}

/// Parts that differ in how they are written alone stay as the file has them.
fn unless_same(file: &Parts, parts: Parts) -> Parts {
    let settled = file.differences(&parts);
    let kept = |part: &str, ours: Value, files: &Value| if settled.contains(&part) { ours } else { files.clone() };
    Parts {
        normalizer: kept(NORMALIZED, parts.normalizer, &file.normalizer),
        pre_tokenizer: kept(SPLIT, parts.pre_tokenizer, &file.pre_tokenizer),
        post_processor: kept(AROUND, parts.post_processor, &file.post_processor),
        types: file.types,
    }
}

/// The tokens that a class puts around texts; none where the file's stay.
fn around(options: &Options, number: &Number) -> Option<Value> {
    let token = |part: &str| {
        let content = options.special(part)?;
        Some((content, number(content)?))
    };
    let [a, b] = [Piece::Text("A", 0), Piece::Text("B", 1)];
    Some(match options.class.kind {
        Kind::AsIs | Kind::Framed => return None,
        // Without either token there is no template, and nothing is put around.
        Kind::Gpt2 | Kind::OpenAiGpt => return framed(options, number),
        Kind::Bert | Kind::Albert | Kind::Deberta => bert_template(token("cls_token")?, token("sep_token")?),
        Kind::MpNet => roberta_processing(token("cls_token")?, token("sep_token")?, true, false),
        Kind::Roberta => {
            let prefix = options.add_prefix_space.unwrap_or(false);
            roberta_processing(token("cls_token")?, token("sep_token")?, options.trim_offsets, prefix)
        }
        Kind::XlmRoberta => {
            let (bos, eos) = (Piece::Token(token("bos_token")?, 0), Piece::Token(token("eos_token")?, 0));
            template(&[bos, a, eos], &[bos, a, eos, eos, Piece::Text("B", 0), eos])
        }
        Kind::XlNet => {
            let (sep, cls) = (token("sep_token")?, Piece::Token(token("cls_token")?, 2));
            let first = Piece::Token(sep, 0);
            template(&[a, first, cls], &[a, first, b, Piece::Token(sep, 1), cls])
        }
    })
}

/// Texts between the tokens that begin and end them, where they are asked for; none where neither is.
pub(super) fn framed(options: &Options, number: &Number) -> Option<Value> {
    let asked = |part: &str, on: bool| {
        let content = options.special(part).filter(|_| on)?;
        Some((content, number(content)?))
    };
    let (bos, eos) = (asked("bos_token", options.add_bos_token), asked("eos_token", options.add_eos_token));
    if bos.is_none() && eos.is_none() {
        return None;
    }
    let first = between(bos, Piece::Text("A", 0), eos, 0);
    Some(template(&first, &[first.clone(), between(bos, Piece::Text("B", 1), eos, 1)].concat()))
}

/// A text between tokens that may be there, of that type.
fn between<'a>(bos: Option<Around<'a>>, text: Piece<'a>, eos: Option<Around<'a>>, types: u8) -> Vec<Piece<'a>> {
    let token = |token: Option<Around<'a>>| token.map(|token| Piece::Token(token, types));
    token(bos).into_iter().chain([text]).chain(token(eos)).collect()
}

fn roberta_processing(cls: Around, sep: Around, trim_offsets: bool, add_prefix_space: bool) -> Value {
    json!({
        "type": "RobertaProcessing",
        "sep": [sep.0, sep.1],
        "cls": [cls.0, cls.1],
        "trim_offsets": trim_offsets,
        "add_prefix_space": add_prefix_space,
    })
}

/// BERT's normalizer.
pub(super) fn bert_normalizer(options: &Options) -> Value {
    let lower = options.do_lower_case.unwrap_or(true);
    bert_normalizer_of(options.tokenize_chinese_chars, options.strip_accents.into(), lower)
}

fn bert_normalizer_of(chinese: bool, strip_accents: Value, lowercase: bool) -> Value {
    json!({
        "type": "BertNormalizer",
        "clean_text": true,
        "handle_chinese_chars": chinese,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    })
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

/// The normalizer of ALBERT and XLNet.
fn sentence_piece(file: &Value, strip_accents: bool, lower: bool) -> Value {
    let mut steps = vec![replace(json!({"String": "``"}), "\""), replace(json!({"String": "''"}), "\"")];
    if strip_accents {
        steps.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
    }
    if lower {
        steps.push(json!({"type": "Lowercase"}));
    }
    steps.extend(precompiled(file));
    json!({"type": "Sequence", "normalizers": steps})
}

fn deberta_normalizer(lower: bool) -> Value {
    let mut steps = if lower { vec![json!({"type": "Lowercase"})] } else { Vec::new() };
    steps.extend([
        replace(json!({"Regex": "\\s{2,}|[\\n\\r\\t]"}), " "),
        json!({"type": "NFC"}),
        json!({"type": "Strip", "strip_left": false, "strip_right": true}),
    ]);
    json!({"type": "Sequence", "normalizers": steps})
}

fn deberta_split(options: &Options) -> Value {
    let mut steps = Vec::new();
    if options.split_by_punct {
        steps.push(json!({"type": "Punctuation", "behavior": "Isolated"}));
    }
    let scheme = if options.add_prefix_space.unwrap_or(true) { "always" } else { "first" };
    steps.push(metaspace(scheme));
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// Words by white space, each with a mark before it.
fn words(prefix: bool) -> Value {
    let scheme = if prefix { "always" } else { "never" };
    json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace(scheme)]})
}

fn metaspace(scheme: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true})
}

/// SentencePiece's table of characters in a normalizer.
fn precompiled(normalizer: &Value) -> Option<Value> {
    members(normalizer, "normalizers").into_iter().find(|step| is(step, "Precompiled"))
}
