//! What sentence-transformers puts after an encoder: `modules.json` and the folders it names.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::json;
use crate::error::{Error, Result, printable};

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over the tokens that are not padding.
    Mean,
    /// The first token.
    FirstToken,
}

/// The modules after the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentenceModules {
    /// How tokens are pooled.
    pub pooling: Pooling,
    /// Whether vectors are made to have length 1.
    pub normalize: bool,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The fields of a pooling's configuration that may be set; any other mode is refused by name.
#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
}

/// Reads the modules of a folder, if it is a model of sentence-transformers, and the files that were read.
pub(super) fn read(dir: &Path) -> Result<Option<(SentenceModules, Vec<PathBuf>)>> {
    let path = dir.join("modules.json");
    if !path.is_file() {
        return Ok(None);
    }
    let modules: Vec<Module> = json::read(&path)?;
    let mut files = vec![path];
    let (mut pooling, mut normalize) = (None, false);
    for module in &modules {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => {
                let config = dir.join(inside(&module.path)?).join("config.json");
                pooling = Some(read_pooling(&config)?);
                files.push(config);
            }
            "Normalize" => normalize = true,
            _ => {
                return Err(Error::unsupported(format!("the module `{}` is not drawn yet", printable(&module.kind)))
                    .at("modules.json: type"));
            }
        }
    }
    Ok(pooling.map(|pooling| (SentenceModules { pooling, normalize }, files)))
}

fn read_pooling(path: &Path) -> Result<Pooling> {
    let config: PoolingConfig = json::read(path).map_err(|e| e.at(path.display().to_string()))?;
    let others = [
        ("pooling_mode_max_tokens", config.pooling_mode_max_tokens),
        ("pooling_mode_mean_sqrt_len_tokens", config.pooling_mode_mean_sqrt_len_tokens),
        ("pooling_mode_weightedmean_tokens", config.pooling_mode_weightedmean_tokens),
        ("pooling_mode_lasttoken", config.pooling_mode_lasttoken),
    ];
    if let Some((mode, _)) = others.iter().find(|(_, set)| *set) {
        return Err(Error::unsupported(format!("`{mode}` is not drawn yet")).at(path.display().to_string()));
    }
    match (config.pooling_mode_mean_tokens, config.pooling_mode_cls_token) {
        (true, false) => Ok(Pooling::Mean),
        (false, true) => Ok(Pooling::FirstToken),
        _ => Err(Error::unsupported("exactly one mode of pooling must be set").at(path.display().to_string())),
    }
}

/// A path below the checkpoint's folder.
fn inside(path: &str) -> Result<&Path> {
    let relative = Path::new(path);
    match relative.components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(relative),
        false => {
            Err(Error::bad_input(format!("`{}` leads out of the checkpoint", printable(path))).at("modules.json: path"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(module: &str, path: &str, pooling: &str) -> Result<Option<SentenceModules>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        let kind =
            |name: &str, path: &str| format!(r#"{{"path": "{path}", "type": "sentence_transformers.models.{name}"}}"#);
        let modules = [kind("Transformer", ""), kind("Pooling", path), kind(module, "2")].join(",");
        std::fs::write(dir.path().join("modules.json"), format!("[{modules}]")).unwrap();
        std::fs::write(dir.path().join("1_Pooling/config.json"), pooling).unwrap();
        Ok(read(dir.path())?.map(|(modules, _)| modules))
    }

    #[test]
    fn modules_are_read_and_what_is_not_drawn_is_refused_by_name() {
        let mean = r#"{"pooling_mode_mean_tokens": true}"#;
        let expected = SentenceModules { pooling: Pooling::Mean, normalize: true };
        assert_eq!(folder("Normalize", "1_Pooling", mean).unwrap(), Some(expected));
        let message = |found: Result<_>| found.unwrap_err().message().to_owned();
        assert_eq!(
            message(folder("Dense", "1_Pooling", mean)),
            "the module `sentence_transformers.models.Dense` is not drawn yet"
        );
        assert_eq!(message(folder("Normalize", "../1_Pooling", mean)), "`../1_Pooling` leads out of the checkpoint");
        let max = r#"{"pooling_mode_max_tokens": true}"#;
        assert_eq!(message(folder("Normalize", "1_Pooling", max)), "`pooling_mode_max_tokens` is not drawn yet");
        assert_eq!(message(folder("Normalize", "1_Pooling", "{}")), "exactly one mode of pooling must be set");
    }
}
