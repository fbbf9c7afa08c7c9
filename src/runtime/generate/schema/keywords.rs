//! What is not left to the library: keywords that it would pass over in silence.

use serde_json::{Map, Value};

use crate::error::{Error, Result, printable};

/// The keywords that the library implements.
const IMPLEMENTED: [&str; 27] = [
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
];

/// Keywords that say nothing about what is valid.
const ANNOTATIONS: [&str; 17] = [
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "$vocabulary",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
];

/// The drafts that `$schema` may name, and whether they are older than `prefixItems`.
const DRAFTS: [(&str, bool); 5] = [
    ("https://json-schema.org/draft/2020-12/schema", false),
    ("https://json-schema.org/draft/2019-09/schema", true),
    ("http://json-schema.org/draft-07/schema", true),
    ("http://json-schema.org/draft-06/schema", true),
    ("http://json-schema.org/draft-04/schema", true),
];

/// Most keywords that are named.
const MOST: usize = 8;

/// Fails where the library would read a part of a schema otherwise than it is meant; gives warnings of what it passes over.
pub(super) fn check(schema: &Value) -> Result<Vec<String>> {
    if schema.get("x-guidance").is_some() {
        return Err(
            Error::unsupported("`x-guidance` changes what a schema means, and is not read").hint("leave it out")
        );
    }
    let named = schema.get("$schema").and_then(Value::as_str).map(|name| name.trim_end_matches('#'));
    let draft = named.and_then(|name| DRAFTS.iter().find(|(draft, _)| *draft == name));
    let mut walk = Walk { is_old: draft.is_some_and(|(_, old)| *old), passed_over: Vec::new() };
    walk.schema(schema, &mut Vec::new(), false)?;
    let mut warnings = Vec::new();
    if let (Some(name), None) = (named, draft) {
        warnings.push(format!("`$schema` is no known draft: `{}` is read as 2020-12", printable(name)));
    }
    if !walk.passed_over.is_empty() {
        let named: Vec<String> =
            walk.passed_over.iter().take(MOST).map(|path| format!("`{}`", printable(path))).collect();
        let others = walk.passed_over.len().saturating_sub(MOST);
        let others = if others > 0 { format!(" and {others} more") } else { String::new() };
        warnings.push(format!("keywords that are not known are passed over: {}{others}", named.join(", ")));
    }
    Ok(warnings)
}

struct Walk {
    /// Whether the draft is older than `prefixItems`.
    is_old: bool,
    /// Where the keywords are that are not known.
    passed_over: Vec<String>,
}

impl Walk {
    /// `path` leads to the schema. `renamed` says that a schema around it has a name of its own (`$id`), which references
    /// inside it begin at.
    fn schema<'a>(&mut self, schema: &'a Value, path: &mut Vec<&'a str>, renamed: bool) -> Result<()> {
        let Some(fields) = schema.as_object() else { return Ok(()) };
        let named = fields.contains_key("$id") || fields.get("id").is_some_and(Value::is_string);
        let renamed = renamed || named && !path.is_empty();
        if renamed && fields.contains_key("$ref") {
            return Err(Error::unsupported("a `$ref` inside a schema with an `$id` of its own is not followed")
                .at(pointer(path))
                .hint("put the definitions into the `$defs` of the whole schema, and leave out the inner `$id`"));
        }
        self.check_items(fields, path)?;
        for (keyword, value) in fields {
            path.push(keyword);
            self.keyword(keyword, value, path, renamed)?;
            path.pop();
        }
        Ok(())
    }

    fn keyword<'a>(&mut self, keyword: &str, value: &'a Value, path: &mut Vec<&'a str>, renamed: bool) -> Result<()> {
        match (keyword, value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    path.push(name);
                    self.schema(schema, path, renamed)?;
                    path.pop();
                }
            }
            ("items" | "prefixItems" | "allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                schemas.iter().try_for_each(|schema| self.schema(schema, path, renamed))?;
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => self.schema(schema, path, renamed)?,
            _ if IMPLEMENTED.contains(&keyword) || ANNOTATIONS.contains(&keyword) => {}
            _ => self.passed_over.push(pointer(path)),
        }
        Ok(())
    }

    /// The library lets `prefixItems` count for nothing where it takes the draft for an older one.
    fn check_items(&self, fields: &Map<String, Value>, path: &[&str]) -> Result<()> {
        let other = ["additionalItems", "$schema"].into_iter().find(|keyword| match *keyword {
            "$schema" => self.is_old,
            other => fields.contains_key(other),
        });
        match other.filter(|_| fields.contains_key("prefixItems")) {
            Some(other) => {
                Err(Error::bad_input(format!("`prefixItems` is of draft 2020-12, and `{other}` of an older one"))
                    .at(pointer(path))
                    .hint("write `items` for what follows `prefixItems`, and name draft 2020-12 or none in `$schema`"))
            }
            None => Ok(()),
        }
    }
}

/// A JSON pointer, of which the names are shown as they are.
fn pointer(path: &[&str]) -> String {
    path.iter().fold("#".to_owned(), |whole, name| format!("{whole}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keywords_that_are_not_known_are_warned_of_by_name() {
        let known = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "t", "type": "object",
            "properties": {"maxLenght": {"type": "string", "maxLength": 3}}, "required": ["maxLenght"],
            "$defs": {"a": {"const": 1}}, "additionalProperties": {"enum": [{"no": "keyword"}]},
        });
        assert_eq!(check(&known).unwrap(), Vec::<String>::new());
        assert_eq!(check(&json!(true)).unwrap(), Vec::<String>::new());
        let misspelt = json!({"properties": {"a": {"maxLenght": 3}}, "anyOf": [{"items": {"typ": "string"}}]});
        let mut said = check(&misspelt).unwrap();
        let said = said.pop().unwrap();
        assert!(said.starts_with("keywords that are not known are passed over: "), "{said}");
        assert!(said.contains("`#/properties/a/maxLenght`") && said.contains("`#/anyOf/items/typ`"), "{said}");
        let many: Map<String, Value> = (0..100).map(|number| (format!("k{number}"), json!(0))).collect();
        assert!(check(&Value::Object(many)).unwrap()[0].ends_with("and 92 more"));
        let other = check(&json!({"$schema": "https://json-schema.org/draft-07/schema#"})).unwrap();
        assert_eq!(
            other,
            ["`$schema` is no known draft: `https://json-schema.org/draft-07/schema` is read as 2020-12"]
        );
    }

    #[test]
    fn what_would_be_read_otherwise_than_it_is_meant_is_refused() {
        let said = |schema: Value| check(&schema).unwrap_err();
        let guided = said(json!({"x-guidance": {"lenient": true}}));
        assert_eq!(guided.message(), "`x-guidance` changes what a schema means, and is not read");
        let drafts = said(json!({"items": {"prefixItems": [true], "additionalItems": false}}));
        assert_eq!(drafts.message(), "`prefixItems` is of draft 2020-12, and `additionalItems` of an older one");
        assert_eq!(drafts.locations(), ["#/items"]);
        let old = said(json!({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [true]}));
        assert_eq!(old.message(), "`prefixItems` is of draft 2020-12, and `$schema` of an older one");
        let renamed = json!({"$defs": {"a": {"$id": "other", "items": {"$ref": "#/$defs/b"}}}});
        assert_eq!(said(renamed).message(), "a `$ref` inside a schema with an `$id` of its own is not followed");
        assert!(check(&json!({"$id": "whole", "items": {"$ref": "#/$defs/b"}})).is_ok());
    }
}
