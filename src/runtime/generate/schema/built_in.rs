//! Whether this kilnc has the library that follows schemas.

use crate::error::{Error, Result};

/// Fails where this kilnc was built without it.
pub(super) fn check_built_in(built_in: bool) -> Result<()> {
    match built_in {
        true => Ok(()),
        false => Err(Error::runtime_missing("this kilnc was built without JSON schemas")
            .hint("build it with: cargo build --release --features json-schema")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::JsonSchema;
    use super::*;

    #[test]
    fn a_kilnc_without_schemas_says_how_to_get_one() {
        let said = check_built_in(false).unwrap_err();
        assert_eq!(said.message(), "this kilnc was built without JSON schemas");
        assert_eq!(said.exit_code(), 4);
        assert_eq!(said.hints(), ["build it with: cargo build --release --features json-schema"]);
        let parsed = JsonSchema::parse("{}", "schema.json");
        assert_eq!(parsed.is_ok(), cfg!(feature = "json-schema"));
        assert!(parsed.err().is_none_or(|e| e.message() == said.message()));
    }
}
