//! The chat templates of a folder: files of their own, or a field of `tokenizer_config.json`.
//!
//! As in `transformers` (`PreTrainedTokenizerBase.from_pretrained`), `chat_template.jinja` and the files of
//! `additional_chat_templates` go over the field. Where there are neither, `chat_template.json` counts, which processors have.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result, printable};
use crate::front::folder::Folder;
use crate::front::tokenizer::special_tokens;
use crate::json;

/// The template of most chats.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The folder with templates of other names.
pub const CHAT_TEMPLATES: &str = "additional_chat_templates";

/// The file of processors.
pub const CHAT_TEMPLATE_JSON: &str = "chat_template.json";

/// The file with the field.
const CONFIG: &str = "tokenizer_config.json";

/// The field, in both JSON files.
const FIELD: &str = "chat_template";

/// The name of the template that has none.
const DEFAULT: &str = "default";

/// How the names of templates' files end.
const JINJA: &str = "jinja";

/// Most templates of a folder.
const MOST: usize = 64;

/// A template of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatFile {
    /// Its name; `default` where it has none.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The file it is in, and the field.
    pub file: String,
}

/// The templates of a folder, with what they may say of its tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatFiles {
    /// The templates, each of another name.
    pub templates: Vec<ChatFile>,
    /// The special tokens by their names, as `transformers` has them in `special_tokens_map`.
    pub special: Vec<(String, String)>,
    /// More special tokens, `additional_special_tokens`.
    pub more_special: Vec<String>,
}

impl ChatFiles {
    /// Reads the templates of a folder in the Hub's layout.
    ///
    /// # Errors
    /// Bad input: fields of another type, texts that are not UTF-8, names that come twice.
    pub fn read(folder: impl Into<Folder>) -> Result<ChatFiles> {
        let folder = &folder.into();
        let templates = templates(folder)?;
        if templates.is_empty() {
            return Ok(ChatFiles::default());
        }
        for (number, ChatFile { name, .. }) in templates.iter().enumerate() {
            if templates.iter().take(number).any(|other| other.name == *name) {
                return Err(Error::bad_input(format!("the name `{}` is that of two chat templates", printable(name))));
            }
        }
        let special = special_tokens(folder)?;
        Ok(ChatFiles { templates, special: special.named, more_special: special.more })
    }
}

/// The files of templates that a folder has, by their names in it.
pub fn chat_template_files(folder: &Folder) -> Result<Vec<String>> {
    let own = folder.files_of(&[CHAT_TEMPLATE, CHAT_TEMPLATE_JSON])?;
    Ok(own.into_iter().map(str::to_owned).chain(additional(folder)?).collect())
}

fn templates(folder: &Folder) -> Result<Vec<ChatFile>> {
    let mut found = Vec::new();
    if folder.has(CHAT_TEMPLATE)? {
        let text = folder.text(CHAT_TEMPLATE)?;
        found.push(ChatFile { name: DEFAULT.to_owned(), text, file: CHAT_TEMPLATE.to_owned() });
    }
    for file in additional(folder)? {
        let name = Path::new(&file).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        found.push(ChatFile { name, text: folder.text(&file)?, file: printable(&file) });
    }
    for file in [CONFIG, CHAT_TEMPLATE_JSON] {
        if found.is_empty() && folder.has(file)? {
            let fields: Map<String, Value> = folder.read(file)?;
            if let Some(value) = fields.get(FIELD).filter(|value| !value.is_null()) {
                found = of_field(value, &format!("{file}: {FIELD}"))?;
            }
        }
    }
    Ok(found)
}

/// The templates in the folder of those with names, in the order of the names.
fn additional(folder: &Folder) -> Result<Vec<String>> {
    folder.names_below(CHAT_TEMPLATES, JINJA, MOST).map_err(|e| e.at("chat templates"))
}

/// A template, or several: a list of them, or an object.
fn of_field(value: &Value, field: &str) -> Result<Vec<ChatFile>> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
        template: String,
    }
    let file = |name: &str| format!("{field} `{}`", printable(name));
    match value {
        Value::String(text) => {
            Ok(vec![ChatFile { name: DEFAULT.to_owned(), text: text.clone(), file: field.to_owned() }])
        }
        Value::Array(_) => {
            let named: Vec<Named> = json::from_value(value.clone(), field)?;
            let template = |Named { name, template }| ChatFile { file: file(&name), name, text: template };
            Ok(named.into_iter().map(template).collect())
        }
        Value::Object(named) => {
            let template = |(name, text): (&String, &Value)| {
                let text = json::from_value(text.clone(), &file(name))?;
                Ok(ChatFile { name: name.clone(), text, file: file(name) })
            };
            named.iter().map(template).collect()
        }
        other => {
            Err(Error::bad_input(format!("{field}: expected a text or a list of texts with names, found {other}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn said(dir: &Path) -> Vec<(String, String)> {
        ChatFiles::read(dir)
            .unwrap()
            .templates
            .into_iter()
            .map(|t| (format!("{}={}", t.name, t.text), t.file))
            .collect()
    }

    #[test]
    fn files_go_over_the_field_and_both_over_that_of_processors() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(said(place.path()), []);
        write(CHAT_TEMPLATE_JSON, r#"{"chat_template": "p"}"#);
        assert_eq!(said(place.path()), [pair("default=p", "chat_template.json: chat_template")]);
        write(CONFIG, r#"{"bos_token": "<s>", "chat_template": "a"}"#);
        assert_eq!(said(place.path()), [pair("default=a", "tokenizer_config.json: chat_template")]);
        write(CONFIG, r#"{"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]}"#);
        let of_list = [
            pair("default=a", "tokenizer_config.json: chat_template `default`"),
            pair("rag=b", "tokenizer_config.json: chat_template `rag`"),
        ];
        assert_eq!(said(place.path()), of_list);
        write("additional_chat_templates/tool_use.jinja", "t");
        write("additional_chat_templates/README.md", "no template");
        assert_eq!(said(place.path()), [pair("tool_use=t", "additional_chat_templates/tool_use.jinja")]);
        write(CHAT_TEMPLATE, "j");
        let of_files =
            [pair("default=j", CHAT_TEMPLATE), pair("tool_use=t", "additional_chat_templates/tool_use.jinja")];
        assert_eq!(said(place.path()), of_files);
        assert_eq!(
            chat_template_files(&place.path().into()).unwrap(),
            [CHAT_TEMPLATE, CHAT_TEMPLATE_JSON, "additional_chat_templates/tool_use.jinja"]
        );
    }

    #[test]
    fn templates_of_other_types_are_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        for (value, expected) in [
            ("7", "tokenizer_config.json: chat_template: expected a text or a list of texts with names, found 7"),
            (r#"[{"name": "a"}]"#, "tokenizer_config.json: chat_template.[0]: missing field `template`"),
            (r#"{"a": 1}"#, "tokenizer_config.json: chat_template `a`: invalid type: integer `1`"),
            (
                r#"[{"name": "a", "template": "x"}, {"name": "a", "template": "y"}]"#,
                "the name `a` is that of two chat templates",
            ),
        ] {
            fs::write(place.path().join(CONFIG), format!(r#"{{"chat_template": {value}}}"#)).unwrap();
            let error = ChatFiles::read(place.path()).unwrap_err();
            assert!(error.message().starts_with(expected), "{error}");
        }
    }
}
