//! What the configurations of all modules have in common: a field that is not known is refused where it says something.

use serde_json::{Map, Value};

use crate::error::{Error, Result, printable};

/// The default of sentence-transformers.
pub(super) fn yes() -> bool {
    true
}

/// Fails where an unknown field is set: it may change the predictions.
pub(super) fn only_known(fields: &Map<String, Value>, known: &[&str]) -> Result<()> {
    let says = |value: &Value| !value.is_null() && *value != Value::Bool(false);
    match fields.iter().find(|(name, value)| !known.contains(&name.as_str()) && says(value)) {
        None => Ok(()),
        Some((name, value)) => Err(Error::unsupported(format!(
            "the option `{}` is not known, and it is {}",
            printable(name),
            printable(&value.to_string())
        ))),
    }
}
