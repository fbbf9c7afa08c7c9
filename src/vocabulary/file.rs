//! The token ids of a `tokenizer.json` outside of its model: added tokens, padding and the tokens around
//! texts.

use crate::error::Result;
use crate::json;
use crate::json::raw::{Object, elements, list};

/// The file, as messages call it.
pub(super) const FILE: &str = "tokenizer.json";

/// Maps a token id of the file to another; the second argument is its location.
pub(super) type Number<'n> = dyn FnMut(u32, &str) -> Result<u32> + 'n;

/// The field of added tokens.
pub(super) fn added(file: &Object) -> Result<Vec<String>> {
    let location = format!("{FILE}: added_tokens");
    let Some(tokens) = file.get("added_tokens") else { return Ok(Vec::new()) };
    let content = |token| Object::of(token, &location)?.read::<String>("content", &location);
    Ok(elements(tokens, &location)?
        .into_iter()
        .map(content)
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// Sets the ids of added tokens to those that `number` has for their contents. The library leaves out those that have none.
pub(super) fn renumber_added(file: &mut Object, number: impl Fn(&str) -> Option<u32>) -> Result<()> {
    let location = format!("{FILE}: added_tokens");
    let Some(tokens) = file.get("added_tokens") else { return Ok(()) };
    let mut renumbered = Vec::new();
    for token in elements(tokens, &location)? {
        let mut token = Object::of(token, &location)?;
        if let Some(number) = token.read::<String>("content", &location)?.and_then(|content| number(&content)) {
            token.set("id", number.to_string());
            renumbered.push(token.to_string());
        }
    }
    file.set("added_tokens", list(&renumbered));
    Ok(())
}

/// Replaces the id of padding, and of every token that is put around texts, by that of `number`.
pub(super) fn renumber_others(file: &mut Object, number: &mut Number) -> Result<()> {
    if let Some(padding) = file.get("padding") {
        let location = format!("{FILE}: padding");
        let mut padding = Object::of(padding, &location)?;
        if let Some(pad) = padding.read("pad_id", &location)? {
            padding.set("pad_id", number(pad, &format!("{location}.pad_id"))?.to_string());
        }
        file.set("padding", padding.to_string());
    }
    if let Some(processor) = file.get("post_processor") {
        let processor = renumber_processor(processor, number)?;
        file.set("post_processor", processor);
    }
    Ok(())
}

/// The library recognises kinds of processors by their fields, and so does this.
fn renumber_processor(text: &str, number: &mut Number) -> Result<String> {
    let location = format!("{FILE}: post_processor");
    let mut processor = Object::of(text, &location)?;
    for end in ["sep", "cls"] {
        if let Some(pair) = processor.get(end) {
            let location = format!("{location}.{end}");
            let (token, id): (String, u32) = json::parse(pair, &location)?;
            let pair = serde_json::json!([token, number(id, &location)?]);
            processor.set(end, pair.to_string());
        }
    }
    if let Some(tokens) = processor.get("special_tokens") {
        let location = format!("{location}.special_tokens");
        let tokens = Object::of(tokens, &location)?.map(|token| {
            let mut token = Object::of(token, &location)?;
            let ids: Vec<u32> = token.read("ids", &location)?.unwrap_or_default();
            let ids = ids.into_iter().map(|id| number(id, &location).map(|id| id.to_string()));
            token.set("ids", list(&ids.collect::<Result<Vec<_>>>()?));
            Ok(token.to_string())
        })?;
        processor.set("special_tokens", tokens.to_string());
    }
    if let Some(processors) = processor.get("processors") {
        let inner = elements(processors, &location)?.into_iter().map(|inner| renumber_processor(inner, number));
        let inner = inner.collect::<Result<Vec<_>>>()?;
        processor.set("processors", list(&inner));
    }
    Ok(processor.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_outside_of_the_model_is_mapped() {
        let text = r#"{"padding": {"strategy": "BatchLongest", "pad_id": 1}, "post_processor": {"type": "Sequence",
            "processors": [{"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true},
            {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
             "special_tokens": {"[X]": {"id": "[X]", "ids": [3, 4], "tokens": ["[X]", "x"]}}}, {"type": "ByteLevel"}]},
            "added_tokens": [{"id": 2, "content": "</s>", "special": true}, {"id": 9, "content": ""}]}"#;
        let mut file = Object::of(text, FILE).unwrap();
        assert_eq!(added(&file).unwrap(), ["</s>", ""]);
        let mut asked = Vec::new();
        renumber_others(&mut file, &mut |id, location| {
            asked.push(format!("{} {id}", location.trim_start_matches("tokenizer.json: ")));
            Ok(id + 10)
        })
        .unwrap();
        renumber_added(&mut file, |content| (content == "</s>").then_some(12)).unwrap();
        assert_eq!(
            asked,
            [
                "padding.pad_id 1",
                "post_processor.sep 2",
                "post_processor.cls 0",
                "post_processor.special_tokens 3",
                "post_processor.special_tokens 4"
            ]
        );
        let after = file.to_string();
        for part in [
            r#""pad_id":11"#,
            r#""sep":["</s>",12],"cls":["<s>",10]"#,
            r#""ids":[13,14]"#,
            r#""added_tokens":[{"id":12,"content":"</s>","special":true}]"#,
        ] {
            assert!(after.contains(part), "{part} in {after}");
        }
    }
}
