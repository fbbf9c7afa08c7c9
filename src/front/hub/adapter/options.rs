//! The options of `adapter_config.json` that are known. PEFT passes over an option that it does not know, with a warning,
//! and so does kilnc; AdapterHub's library refuses it, and so does kilnc. An option with an empty value is ignored by both.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kind::Kind;
use crate::error::{Error, Result, printable};
use crate::json;

/// How many unknown options are named.
const NAMED: usize = 8;

/// The options that every kind of PEFT's has, or has had.
const COMMON: [&str; 9] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Whether an option is set: null, false and empty values are not.
pub(super) fn is_on(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) | Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The warning of options that are on and that PEFT does not have for the kind, if there are any.
pub(super) fn unknown(config: &str, kind: &Kind) -> Result<Option<String>> {
    let config: BTreeMap<String, Value> = json::parse(config, "adapter_config.json")?;
    let known = |option: &str| COMMON.contains(&option) || kind.has_option(option);
    let unknown = config.iter().filter(|(option, value)| is_on(value) && !known(option));
    let names: Vec<String> = unknown.map(|(option, _)| format!("`{}`", printable(option))).collect();
    let more = names.len().saturating_sub(NAMED);
    Ok(match names.get(..names.len().min(NAMED)) {
        None | Some([]) => None,
        Some([one]) => Some(format!(
            "adapter_config.json sets {one}, an option of {} that PEFT 0.21.2 does not know: the predictions may be others",
            kind.peft_type
        )),
        Some(several) => Some(format!(
            "adapter_config.json sets {}{}, options of {} that PEFT 0.21.2 does not know: the predictions may be others",
            several.join(", "),
            if more > 0 { format!(" and {more} more") } else { String::new() },
            kind.peft_type
        )),
    })
}

/// Fails at the first option of AdapterHub's that is on and not known.
pub(super) fn refuse_unknown(rest: &BTreeMap<String, Value>, location: &str) -> Result<()> {
    match rest.iter().find(|(_, value)| is_on(value)) {
        None => Ok(()),
        Some((option, _)) => Err(Error::unsupported("this option is unknown, and may change the predictions")
            .at(format!("{location}.{}", printable(option)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::hub::adapter::kind;

    #[test]
    fn empty_options_need_not_be_known() {
        let said = |kind_name: &str, config: &str| unknown(config, kind(kind_name).unwrap()).unwrap();
        let quiet = r#"{"a": null, "b": false, "c": "", "d": [], "e": {}, "peft_type": "LORA", "r": 4}"#;
        assert_eq!(said("LORA", quiet), None);
        let end = "that PEFT 0.21.2 does not know: the predictions may be others";
        for on in ["true", "1", "0", "\"x\"", "[1]", "{\"x\": null}"] {
            let config = format!(r#"{{"new": {on}}}"#);
            assert_eq!(
                said("LORA", &config),
                Some(format!("adapter_config.json sets `new`, an option of LORA {end}")),
                "{on}"
            );
        }
        // Kinds have different options.
        let config = r#"{"use_dora": true, "use_rslora": true}"#;
        assert_eq!(said("LORA", config), None);
        assert_eq!(
            said("LOHA", config),
            Some(format!("adapter_config.json sets `use_dora`, `use_rslora`, options of LOHA {end}"))
        );
        let many: Vec<String> = (0..10).map(|i| format!(r#""o{i}": 1"#)).collect();
        let said = said("IA3", &format!("{{{}}}", many.join(","))).unwrap();
        assert!(said.contains("`o7` and 2 more, options of IA3"), "{said}");
    }
}
