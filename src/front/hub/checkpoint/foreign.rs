//! Folders that are no checkpoint, and their messages.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result, printable};
use crate::json;
use crate::presence;

/// The configuration of an adapter; PEFT's and AdapterHub's have the same name.
const ADAPTER: &str = "adapter_config.json";

/// The files that hold a model's weights, or list where they are.
const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

#[derive(Default, Deserialize)]
struct Adapter {
    /// PEFT's word for the base.
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    /// AdapterHub's.
    #[serde(default)]
    model_name: Option<String>,
}

/// Fails where a folder holds an adapter and no model: there is a flag for it.
pub(super) fn refuse_adapter(dir: &Path, encoder: &Path) -> Result<()> {
    let is_model =
        presence::has_file(&encoder.join("config.json"))? && !presence::files_of(encoder, &WEIGHTS)?.is_empty();
    let found = presence::files_of(dir, &[ADAPTER, "head_config.json"])?;
    if is_model || found.is_empty() {
        return Ok(());
    }
    // Its base is only for the hint.
    let adapter: Adapter = match found.contains(&ADAPTER) {
        true => json::parse(&json::read_text(&dir.join(ADAPTER))?, ADAPTER).unwrap_or_default(),
        false => Adapter::default(),
    };
    let base = adapter.base_model_name_or_path.or(adapter.model_name).filter(|name| !name.is_empty());
    let of = base.map(|name| format!(" `{}`,", printable(&name))).unwrap_or_default();
    Err(Error::bad_input(format!("{} holds an adapter and no model", dir.display())).hint(format!(
        "give the folder of its base model,{of} and this one with --adapter: kilnc build BASE/ --adapter {}/ -o OUT.kiln",
        printable(&json::file_name(dir))
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(files: &[(&str, &str)]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let adapter = dir.path().join("lora");
        std::fs::create_dir(&adapter).unwrap();
        for (name, text) in files {
            std::fs::write(adapter.join(name), text).unwrap();
        }
        let error = refuse_adapter(&adapter, &adapter).err()?;
        assert!(error.message().ends_with("lora holds an adapter and no model"), "{error}");
        Some(error.hints().concat())
    }

    #[test]
    fn an_adapter_is_no_model() {
        let hint = |base: &str| {
            let rest = "and this one with --adapter: kilnc build BASE/ --adapter lora/ -o OUT.kiln";
            Some(format!("give the folder of its base model,{base} {rest}"))
        };
        let config = r#"{"peft_type": "LORA", "base_model_name_or_path": "org/bert"}"#;
        assert_eq!(said(&[("adapter_config.json", config)]), hint(" `org/bert`,"));
        assert_eq!(said(&[("adapter_config.json", r#"{"model_name": "bert"}"#)]), hint(" `bert`,"));
        assert_eq!(said(&[("adapter_config.json", "{}")]), hint(""));
        assert_eq!(said(&[("head_config.json", "{}")]), hint(""));
        assert_eq!(said(&[("adapter_config.json", "{}"), ("config.json", "{}")]), hint(""));
        let both = [("adapter_config.json", "{}"), ("config.json", "{}"), ("model.safetensors", "")];
        assert_eq!(said(&both), None);
        assert_eq!(said(&[("config.json", "{}")]), None);
    }
}
