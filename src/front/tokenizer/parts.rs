//! The parts of a `tokenizer.json` that a class changes: how texts are normalized and split, and the tokens around them.

use serde_json::{Value, json};

use super::options::Options;
use super::{FILE, TokenizerUse};
use crate::error::Result;
use crate::json::raw::Object;

/// Differences between versions, as notes name them.
pub(super) const NORMALIZED: &str = "how a text is normalized";
pub(super) const SPLIT: &str = "how a text is split";
pub(super) const AROUND: &str = "what is put around a text or where its tokens begin";

/// The id of a token by its content.
pub(super) type Number<'a> = dyn Fn(&str) -> Option<u64> + 'a;

/// The parts, null where there are none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parts {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub post_processor: Value,
    /// Whether texts have token types.
    pub types: bool,
}

impl Parts {
    pub fn read(file: &Object) -> Result<Parts> {
        let part = |key| Ok::<_, crate::error::Error>(file.read(key, FILE)?.unwrap_or(Value::Null));
        Ok(Parts {
            normalizer: part("normalizer")?,
            pre_tokenizer: part("pre_tokenizer")?,
            post_processor: part("post_processor")?,
            types: true,
        })
    }

    /// What some text may be tokenized otherwise.
    pub fn differences(&self, other: &Parts) -> Vec<&'static str> {
        let splits = |parts: &Parts| steps(&parts.pre_tokenizer, "pretokenizers");
        // Where texts are split at white space, how much of it there is makes no difference.
        let at_spaces = [self, other].iter().all(|parts| splits(parts).iter().any(|step| is(step, "WhitespaceSplit")));
        let normals = |parts: &Parts| {
            let mut steps = steps(&parts.normalizer, "normalizers");
            steps.retain(|step| !at_spaces || !is_about_spaces(step));
            steps
        };
        let mut found = Vec::new();
        if normals(self) != normals(other) {
            found.push(NORMALIZED);
        }
        if splits(self) != splits(other) {
            found.push(SPLIT);
        }
        if around(self) != around(other) {
            found.push(AROUND);
        }
        found
    }

    /// Whether any token gets another type than 0.
    pub fn gives_types(&self, pairs: bool) -> bool {
        pairs || steps(&self.post_processor, "processors").iter().any(|step| template_types(step, "single"))
    }

    /// The parts with the additions of the model's use: lower case, and no token types where the model has none.
    pub fn finished(mut self, usage: &TokenizerUse) -> Parts {
        if usage.lower_case && !steps(&self.normalizer, "normalizers").iter().any(|step| is(step, "Lowercase")) {
            let mut steps = vec![json!({"type": "Lowercase"})];
            steps.extend(members(&self.normalizer, "normalizers"));
            self.normalizer = json!({"type": "Sequence", "normalizers": steps});
        }
        if usage.token_types && !self.types {
            self.post_processor = without_types(&self.post_processor);
        }
        self
    }

    /// The parts that are other than before, by their names.
    pub fn changed(&self, before: &Parts) -> Vec<(&'static str, &Value)> {
        let parts = [
            ("normalizer", &self.normalizer, &before.normalizer),
            ("pre_tokenizer", &self.pre_tokenizer, &before.pre_tokenizer),
            ("post_processor", &self.post_processor, &before.post_processor),
        ];
        parts.into_iter().filter(|(_, now, before)| now != before).map(|(name, now, _)| (name, now)).collect()
    }
}

/// Sets a field of a part of that type.
pub(super) fn set(part: &mut Value, kind: &str, field: &str, value: Value) {
    if is(part, kind)
        && let Some(fields) = part.as_object_mut()
    {
        fields.insert(field.to_owned(), value);
    }
}

/// Whether a part is of that type.
pub(super) fn is(part: &Value, kind: &str) -> bool {
    part.get("type").and_then(Value::as_str) == Some(kind)
}

/// RoBERTa's post-processor, or a byte-level one, by its class's arguments.
pub(super) fn trimmed(post_processor: &Value, options: &Options) -> Value {
    let mut part = post_processor.clone();
    for kind in ["RobertaProcessing", "ByteLevel"] {
        set(&mut part, kind, "add_prefix_space", options.add_prefix_space.unwrap_or(false).into());
        set(&mut part, kind, "trim_offsets", options.trim_offsets.into());
    }
    part
}

/// The steps of a part, one by one and as they are written today.
fn steps(part: &Value, key: &str) -> Vec<Value> {
    members(part, key).into_iter().map(|step| current(&step)).collect()
}

/// The steps of a part, one by one.
pub(super) fn members(part: &Value, key: &str) -> Vec<Value> {
    match (part, part.get(key).and_then(Value::as_array)) {
        (Value::Null, _) => Vec::new(),
        (_, Some(steps)) if is(part, "Sequence") => steps.iter().flat_map(|step| members(step, key)).collect(),
        _ => vec![part.clone()],
    }
}

/// A step as it is written today, without the fields that change no token.
fn current(step: &Value) -> Value {
    let mut step = step.clone();
    let metaspace = is(&step, "Metaspace");
    let byte_level = is(&step, "ByteLevel");
    if let Some(fields) = step.as_object_mut() {
        if metaspace {
            fields.remove("str_rep");
            let before = fields.remove("add_prefix_space").and_then(|prefix| prefix.as_bool());
            let scheme = if before == Some(false) { "never" } else { "always" };
            fields.entry("prepend_scheme").or_insert_with(|| scheme.into());
            fields.entry("split").or_insert(Value::Bool(true));
        }
        if byte_level {
            fields.remove("trim_offsets");
            fields.entry("use_regex").or_insert(Value::Bool(true));
        }
    }
    step
}

/// Whether a step of a normalizer changes nothing but how much white space there is.
fn is_about_spaces(step: &Value) -> bool {
    let pattern = step.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str);
    is(step, "Replace") && pattern == Some(" {2,}") && step.get("content").and_then(Value::as_str) == Some(" ")
        || is(step, "Strip")
}

/// The tokens that a post-processor puts around texts, and whether it trims theirs, which matters to tokens of bytes.
fn around(parts: &Parts) -> Vec<Value> {
    let of_bytes = members(&parts.pre_tokenizer, "pretokenizers").iter().any(|step| is(step, "ByteLevel"));
    let step = |step: &Value| match of_bytes {
        true => zeroed(as_template(step)),
        false => zeroed(as_template(&untrimmed(step))),
    };
    let steps = members(&parts.post_processor, "processors");
    steps.iter().filter(|step| of_bytes || !is(step, "ByteLevel")).map(step).collect()
}

/// RoBERTa's post-processor as the template that it is where nothing is trimmed.
fn untrimmed(step: &Value) -> Value {
    match (is(step, "RobertaProcessing"), token(step, "cls"), token(step, "sep")) {
        (true, Some(cls), Some(sep)) => template(
            &[Piece::Token(cls, 0), Piece::Text("A", 0), Piece::Token(sep, 0)],
            &[
                Piece::Token(cls, 0),
                Piece::Text("A", 0),
                Piece::Token(sep, 0),
                Piece::Token(sep, 0),
                Piece::Text("B", 0),
                Piece::Token(sep, 0),
            ],
        ),
        _ => step.clone(),
    }
}

/// A token with its number, as a post-processor has it.
pub(super) type Around<'a> = (&'a str, u64);

fn token<'a>(step: &'a Value, key: &str) -> Option<Around<'a>> {
    let pair = step.get(key)?.as_array()?;
    Some((pair.first()?.as_str()?, pair.get(1)?.as_u64()?))
}

/// A part of a template, with the type that its tokens get.
#[derive(Clone, Copy)]
pub(super) enum Piece<'a> {
    Token(Around<'a>, u8),
    Text(&'a str, u8),
}

/// The post-processor that puts pieces around one text, and around two.
pub(super) fn template(single: &[Piece], pair: &[Piece]) -> Value {
    let piece = |piece: &Piece| match piece {
        Piece::Token((content, _), types) => json!({"SpecialToken": {"id": content, "type_id": types}}),
        Piece::Text(name, types) => json!({"Sequence": {"id": name, "type_id": types}}),
    };
    let tokens = single.iter().chain(pair).filter_map(|piece| match piece {
        Piece::Token((content, id), _) => {
            Some(((*content).to_owned(), json!({"id": content, "ids": [id], "tokens": [content]})))
        }
        Piece::Text(..) => None,
    });
    json!({
        "type": "TemplateProcessing",
        "single": single.iter().map(piece).collect::<Vec<_>>(),
        "pair": pair.iter().map(piece).collect::<Vec<_>>(),
        "special_tokens": tokens.collect::<serde_json::Map<_, _>>(),
    })
}

/// BERT's post-processor as a template.
fn as_template(step: &Value) -> Value {
    match (is(step, "BertProcessing"), token(step, "cls"), token(step, "sep")) {
        (true, Some(cls), Some(sep)) => bert_template(cls, sep),
        _ => step.clone(),
    }
}

/// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, the second text with type 1.
pub(super) fn bert_template(cls: Around, sep: Around) -> Value {
    let single = [Piece::Token(cls, 0), Piece::Text("A", 0), Piece::Token(sep, 0)];
    let second = [Piece::Text("B", 1), Piece::Token(sep, 1)];
    template(&single, &[single.as_slice(), &second].concat())
}

/// Whether a template has a token of another type than 0.
fn template_types(step: &Value, key: &str) -> bool {
    let pieces = step.get(key).and_then(Value::as_array);
    let types = |piece: &Value| piece.as_object()?.values().next()?.get("type_id")?.as_u64();
    pieces.into_iter().flatten().any(|piece| types(piece).is_some_and(|types| types != 0))
}

/// The post-processor with type 0 for every token.
fn without_types(part: &Value) -> Value {
    let steps: Vec<Value> = members(part, "processors").iter().map(as_template).collect();
    let is_template = |step: &Value| is(step, "TemplateProcessing");
    // RoBERTa's has none.
    if steps.iter().any(|step| is(step, "RobertaProcessing")) {
        return part.clone();
    }
    if steps.iter().any(is_template) {
        let typed = |step: &Value| template_types(step, "single") || template_types(step, "pair");
        return match (steps.iter().any(typed), steps.as_slice()) {
            (false, _) => part.clone(),
            (true, [only]) => zeroed(only.clone()),
            (true, steps) => {
                json!({"type": "Sequence", "processors": steps.iter().cloned().map(zeroed).collect::<Vec<_>>()})
            }
        };
    }
    // Without a template, the second text of a pair has type 1.
    let plain = template(&[Piece::Text("A", 0)], &[Piece::Text("A", 0), Piece::Text("B", 0)]);
    match steps.as_slice() {
        [] => plain,
        steps => json!({"type": "Sequence", "processors": steps.iter().cloned().chain([plain]).collect::<Vec<_>>()}),
    }
}

fn zeroed(mut template: Value) -> Value {
    for key in ["single", "pair"] {
        let pieces = template.get_mut(key).and_then(Value::as_array_mut);
        for piece in pieces.into_iter().flatten() {
            let fields =
                piece.as_object_mut().and_then(|piece| piece.values_mut().next()).and_then(Value::as_object_mut);
            if let Some(fields) = fields {
                fields.insert("type_id".to_owned(), 0.into());
            }
        }
    }
    template
}
