//! Schemas, as users give them.

use serde_json::Value;

use super::built_in::check_built_in;
use super::constraint::Constraint;
use super::vocabulary::token_bytes;
use super::{keywords, matcher};
use crate::error::{Error, Result};
use crate::json;
use crate::runtime::TextEncoder;

/// Longest schema that is read, in bytes.
const LONGEST: usize = 4 << 20;

/// A JSON Schema of drafts 4 to 2020-12 that generated texts satisfy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonSchema {
    text: String,
    warnings: Vec<String>,
}

impl JsonSchema {
    /// Reads a schema; `name` is its file, or what messages call it.
    ///
    /// # Errors
    /// A missing runtime where kilnc was built without the feature `json-schema`. Bad input: no JSON, no schema, one that no
    /// text satisfies, or one with a keyword that is not implemented.
    pub fn parse(text: &str, name: &str) -> Result<JsonSchema> {
        check_built_in(cfg!(feature = "json-schema"))?;
        if text.len() > LONGEST {
            return Err(Error::bad_input(format!("{name}: {} bytes, at most {LONGEST} are read", text.len())));
        }
        let schema: Value = json::parse(text, name)?;
        let mut warnings = keywords::check(&schema).map_err(|e| e.at(name.to_owned()))?;
        warnings.extend(matcher::check(schema).map_err(|e| e.at(name.to_owned()))?);
        let warnings = warnings.into_iter().map(|warning| format!("{name}: {warning}")).collect();
        Ok(JsonSchema { text: text.to_owned(), warnings })
    }

    /// What of the schema is passed over.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The schema with the tokenizer of a model and the tokens that end its texts.
    ///
    /// # Errors
    /// Bad input: a model that ends no text. Unsupported: a tokenizer whose tokens have no bytes of their own.
    pub fn constraint(&self, encoder: &TextEncoder, eos: &[u32]) -> Result<Constraint> {
        if eos.is_empty() {
            return Err(Error::bad_input("no token of the model ends a text, and JSON of a schema has an end")
                .hint("the model's configuration names none (`eos_token_id`)"));
        }
        let tokens = token_bytes(encoder, eos)?;
        Ok(Constraint { schema: self.text.clone(), tokens, eos: eos.to_vec() })
    }
}
