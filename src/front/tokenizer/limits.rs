//! The limits of texts: how long they may be, and on which side they are cut.

use serde_json::{Map, Value, json};

use super::{CONFIG, FILE};
use crate::error::{Error, Result, printable};
use crate::json::raw::Object;

/// Lengths from here on mean that there is no limit; `transformers` writes 10³⁰.
const NO_LIMIT: f64 = 1e9;

/// The side on which texts that are too long are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// The limit of a text's length.
pub(super) fn max_length(config: &Map<String, Value>) -> Result<Option<usize>> {
    let said = ["model_max_length", "max_len"].into_iter().find_map(|key| Some((key, config.get(key)?)));
    let Some((key, value)) = said.filter(|(_, value)| !value.is_null()) else { return Ok(None) };
    match value.as_f64() {
        Some(length) if length >= NO_LIMIT => Ok(None),
        // A text has two tokens around it.
        Some(length) if length >= 2.0 && length.fract() == 0.0 => Ok(Some(length as usize)),
        _ => Err(Error::bad_input(format!("{CONFIG}: {key}: {} is no count of tokens", printable(&value.to_string())))
            .hint("it is the longest text in tokens, those around the text too")),
    }
}

impl Side {
    /// The value of `truncation_side` or `padding_side`.
    pub fn read(config: &Map<String, Value>, key: &str) -> Result<Option<Side>> {
        match config.get(key).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(side) if side == "left" => Ok(Some(Side::Left)),
            Some(side) if side == "right" => Ok(Some(Side::Right)),
            Some(other) => Err(Error::bad_input(format!(
                "{CONFIG}: {key}: expected \"left\" or \"right\", found {}",
                printable(&other.to_string())
            ))),
        }
    }

    /// The member `truncation` of a `tokenizer.json` by which texts are cut on this side, where its own has another. Who
    /// reads that file alone cuts texts by the length, too.
    pub fn written(self, file: &Object, max_length: Option<usize>) -> Result<Option<Value>> {
        let before: Option<Map<String, Value>> = file.read("truncation", FILE)?;
        let direction = before.as_ref().and_then(|before| before.get("direction")).and_then(Value::as_str);
        let (name, is_left) = if self == Side::Left { ("Left", true) } else { ("Right", false) };
        if (direction == Some("Left")) == is_left {
            return Ok(None);
        }
        Ok(Some(match before {
            Some(mut before) => {
                before.insert("direction".to_owned(), name.into());
                Value::Object(before)
            }
            None => json!({
                "direction": name,
                "max_length": max_length.unwrap_or(NO_LIMIT as usize),
                "strategy": "LongestFirst",
                "stride": 0,
            }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_side_that_is_none_is_named() {
        let said = |text: &str| Side::read(&config(text), "truncation_side");
        assert_eq!(said(r#"{"truncation_side": "left"}"#).unwrap(), Some(Side::Left));
        assert_eq!(said(r#"{"truncation_side": null}"#).unwrap(), None);
        for (side, summary) in [("\"middle\"", "\"middle\""), ("1", "1"), ("\"LEFT\"", "\"LEFT\"")] {
            let error = said(&format!(r#"{{"truncation_side": {side}}}"#)).unwrap_err();
            let expected = "tokenizer_config.json: truncation_side: expected \"left\" or \"right\", found ";
            assert_eq!(error.message(), format!("{expected}{summary}"));
        }
    }

    #[test]
    fn a_side_is_written_where_the_file_has_another() {
        let written = |side: Side, file: &str| {
            side.written(&Object::of(file, FILE).unwrap(), Some(9)).unwrap().map(|value| value.to_string())
        };
        let left = r#"{"truncation": {"direction": "Left", "max_length": 4, "strategy": "OnlyFirst", "stride": 1}}"#;
        assert_eq!(written(Side::Left, left), None);
        assert_eq!(written(Side::Right, "{}"), None);
        assert_eq!(written(Side::Right, r#"{"truncation": null}"#), None);
        let expected = r#"{"direction":"Right","max_length":4,"strategy":"OnlyFirst","stride":1}"#;
        assert_eq!(config(&written(Side::Right, left).unwrap()), config(expected));
        let expected = r#"{"direction":"Left","max_length":9,"strategy":"LongestFirst","stride":0}"#;
        assert_eq!(config(&written(Side::Left, "{}").unwrap()), config(expected));
    }
}
