//! The fields of `quantization_config`.

use serde_json::{Map, Value};

use crate::error::{Error, Result, printable};

/// The fields, with their place for messages.
pub(super) struct Settings<'a> {
    place: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Settings<'a> {
    /// Those of a field of `config.json`.
    pub(super) fn new(field: &str, fields: &'a Map<String, Value>) -> Settings<'a> {
        Settings { place: format!("config.json: {field}"), fields }
    }

    /// Those below a field; none where it is null or missing.
    pub(super) fn below(&self, field: &str) -> Result<Option<Settings<'a>>> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Settings { place: self.place(field), fields })),
            Some(other) => Err(self.wrong(field, "an object", other)),
        }
    }

    /// Where a field is, as messages have it.
    pub(super) fn place(&self, field: &str) -> String {
        format!("{}.{field}", self.place)
    }

    /// The names of the fields.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.fields.keys().map(String::as_str)
    }

    /// A field; none where it is null.
    fn value(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether a field is there and says something: null, false, and empty lists and objects say nothing.
    pub(super) fn has(&self, field: &str) -> bool {
        match self.value(field) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(_) => true,
        }
    }

    /// A text.
    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        self.value(field).map(|value| value.as_str().ok_or_else(|| self.wrong(field, "a text", value))).transpose()
    }

    /// An integer.
    pub(super) fn integer(&self, field: &str) -> Result<Option<i64>> {
        let integer = |value: &Value| value.as_i64().ok_or_else(|| self.wrong(field, "an integer", value));
        self.value(field).map(integer).transpose()
    }

    /// A truth value.
    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>> {
        let flag = |value: &Value| value.as_bool().ok_or_else(|| self.wrong(field, "true or false", value));
        self.value(field).map(flag).transpose()
    }

    /// A list of texts.
    pub(super) fn texts(&self, field: &str) -> Result<Vec<&'a str>> {
        let Some(value) = self.value(field) else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        texts.ok_or_else(|| self.wrong(field, "a list of texts", value))
    }

    /// Two sizes of 1 or more.
    pub(super) fn pair(&self, field: &str) -> Result<Option<[usize; 2]>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        let sizes = value.as_array().and_then(|items| items.iter().map(size).collect::<Option<Vec<_>>>());
        match sizes.and_then(|sizes| sizes.try_into().ok()) {
            Some(pair) => Ok(Some(pair)),
            None => Err(self.wrong(field, "two integers from 1", value)),
        }
    }

    /// The columns of a group; none where a row is one group, which is said by −1.
    pub(super) fn group_size(&self, field: &str) -> Result<Option<usize>> {
        match self.integer(field)? {
            None | Some(-1) => Ok(None),
            Some(size) => {
                match usize::try_from(size).ok().filter(|size| *size > 0) {
                    Some(size) => Ok(Some(size)),
                    None => Err(Error::bad_input(format!("`{field}` is {size}, expected -1 or 1 and more"))
                        .at(self.place(field))),
                }
            }
        }
    }

    /// Fails where a field has another text than those that are read; `or` is what it is when it is missing.
    pub(super) fn one_of(&self, field: &str, known: &[&str], or: &'static str) -> Result<&'a str> {
        let found = self.text(field)?.unwrap_or(or);
        match known.contains(&found) {
            true => Ok(found),
            false => Err(Error::unsupported(format!("`{field}` is `{}`, which is not read", printable(found)))
                .at(self.place(field))
                .hint(format!("known: {}", known.join(", ")))),
        }
    }

    /// The bits of a value, which must be of those that are read.
    pub(super) fn bits(&self, field: &str, known: &[usize], or: usize) -> Result<usize> {
        let found = self.integer(field)?;
        let bits = found.map_or(Some(or), |found| usize::try_from(found).ok()).filter(|bits| known.contains(bits));
        bits.ok_or_else(|| {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            Error::unsupported(format!("`{field}` is {}, which is not read", found.unwrap_or_default()))
                .at(self.place(field))
                .hint(format!("known: {}", known.join(", ")))
        })
    }

    /// Fails where a field says something: it changes what the weights are in a way that is not built.
    pub(super) fn refuse(&self, field: &str, what: &str) -> Result<()> {
        match self.has(field) {
            false => Ok(()),
            true => Err(Error::unsupported(format!("`{field}` is set: {what} not read")).at(self.place(field))),
        }
    }

    /// A warning for every field that is not known: it may change what the weights are.
    pub(super) fn unknown(&self, known: &[&str]) -> Vec<String> {
        let is_unknown = |name: &&str| *name != "quant_method" && !known.contains(name) && self.has(name);
        let warning = |name: &str| {
            format!("{} is not known to kilnc; it may change what the weights are", self.place(&printable(name)))
        };
        self.names().filter(is_unknown).map(warning).collect()
    }

    fn wrong(&self, field: &str, expected: &str, found: &Value) -> Error {
        Error::bad_input(format!("expected {expected}, found {}", printable(&found.to_string()))).at(self.place(field))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_have_types_and_null_is_nothing() {
        let fields = json!({
            "bits": "4", "group_size": 0, "sym": 1, "meta": null, "dynamic": {}, "format": "gptq", "list": ["a", 1],
            "block": [128, 0],
        });
        let fields = fields.as_object().unwrap();
        let settings = Settings::new("quantization_config", fields);
        let refused = |error: Option<Error>| error.unwrap().to_string();
        assert_eq!(
            refused(settings.bits("bits", &[4], 4).err()),
            "expected an integer, found \"4\"\n  in config.json: quantization_config.bits"
        );
        assert_eq!(
            refused(settings.group_size("group_size").err()),
            "`group_size` is 0, expected -1 or 1 and more\n  in config.json: quantization_config.group_size"
        );
        assert!(refused(settings.flag("sym").err()).starts_with("expected true or false, found 1\n"));
        assert!(refused(settings.texts("list").err()).starts_with("expected a list of texts, found [\"a\",1]\n"));
        assert!(refused(settings.pair("block").err()).starts_with("expected two integers from 1, found [128,0]\n"));
        assert!(refused(settings.below("format").err()).starts_with("expected an object, found \"gptq\"\n"));
        assert_eq!([settings.has("meta"), settings.has("dynamic"), settings.has("format")], [false, false, true]);
        assert_eq!(settings.bits("meta", &[4, 8], 8).unwrap(), 8);
        let unknown = settings.unknown(&["bits", "group_size", "sym", "list", "block"]);
        assert_eq!(
            unknown,
            ["config.json: quantization_config.format is not known to kilnc; it may change what the weights are"]
        );
    }
}
