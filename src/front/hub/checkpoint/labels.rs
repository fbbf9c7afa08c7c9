//! A classifier's labels: those of `config.json`, as `transformers` reads them, and those of a file of their own.

use std::fs::File;
use std::path::Path;

use serde_json::Value;

use super::config::{CommonConfig, Names, name};
use crate::error::{Error, Result, printable, printable_sentence};
use crate::json;
use crate::textfile;

/// What label of a class without a name, as in `transformers`.
pub fn unnamed(number: usize) -> String {
    format!("LABEL_{number}")
}

impl CommonConfig {
    /// The labels in the order of classes, where `id2label` has one for each class.
    pub fn labels(&self) -> Option<Vec<String>> {
        in_order(self.id2label.as_ref()?)
    }

    /// The labels of so many classes, and warnings about them. Where the configuration does not name them
    /// all, and no others, they are called `LABEL_0`, `LABEL_1` and so on.
    pub fn labels_of(&self, classes: usize) -> (Vec<String>, Vec<String>) {
        let without_names = || (0..classes).map(unnamed).collect::<Vec<_>>();
        let mut warnings = Vec::new();
        let labels = match (&self.id2label, &self.label2id) {
            (Some(names), numbers) => {
                warnings.extend(numbers.as_ref().and_then(|numbers| disagreement(names, numbers)));
                warnings.extend(nulls(names));
                match in_order(names) {
                    Some(labels) if labels.len() == classes => labels,
                    _ => {
                        warnings.push(misfit("id2label", &summary(names), classes));
                        without_names()
                    }
                }
            }
            (None, Some(numbers)) => match in_order(&inverted(numbers)) {
                Some(labels) if labels.len() == classes => {
                    let names = printable_sentence(&labels.join(", "));
                    let what = "config.json names the classes in `label2id` alone, which transformers does not read";
                    warnings.push(format!("{what}: they are called {names} here and LABEL_0… there"));
                    labels
                }
                _ => {
                    warnings.push(misfit("label2id", &summary(&inverted(numbers)), classes));
                    without_names()
                }
            },
            (None, None) => without_names(),
        };
        (labels, warnings)
    }

    /// Whether labels are tags: `O`, and `B-…` or `I-…`.
    pub fn names_tags(&self) -> bool {
        let names = || self.id2label.iter().flatten().filter_map(|(_, name)| name.as_deref());
        names().any(|name| name.starts_with("B-") || name.starts_with("I-"))
    }

    /// Whether the configuration is that of a regression model with one number.
    pub fn gives_one_number(&self) -> bool {
        let labels = self.id2label.as_ref().map(Names::len).or(self.num_labels);
        labels == Some(1) || self.problem_type.is_some() || self.cross_encoder_activation().is_some()
    }
}

/// Labels in the order of classes, where there is one for each of 0, 1, … and no other.
fn in_order(names: &Names) -> Option<Vec<String>> {
    let mut labels = vec![None; names.len()];
    for (number, name) in names {
        let number: usize = number.trim().parse().ok()?;
        let slot = labels.get_mut(number)?;
        if slot.replace(name.clone().unwrap_or_else(|| unnamed(number))).is_some() {
            return None;
        }
    }
    labels.into_iter().collect()
}

/// Numbers by name as names by number. Of names that share a number the last counts.
fn inverted(numbers: &Names) -> Names {
    numbers.iter().filter_map(|(name, number)| Some((number.clone()?, Some(name.clone())))).collect()
}

/// The entries of `id2label` for a message, by their numbers.
fn summary(names: &Names) -> String {
    let mut entries: Vec<(&String, &Option<String>)> = names.iter().collect();
    entries.sort_by_key(|(number, _)| number.trim().parse::<usize>().unwrap_or(usize::MAX));
    let entry = |(number, name): &(&String, &Option<String>)| format!("{number} {}", name.as_deref().unwrap_or("null"));
    printable_sentence(&entries.iter().map(entry).collect::<Vec<_>>().join(", "))
}

fn misfit(field: &str, names: &str, classes: usize) -> String {
    let last = classes.saturating_sub(1);
    format!(
        "`{field}` in config.json has the labels {names}, but the classifier has the classes 0…{last}; they are called \
         LABEL_0…LABEL_{last}. --labels FILE names them"
    )
}

/// The warning of a label with another number in `label2id` than in `id2label`.
fn disagreement(names: &Names, numbers: &Names) -> Option<String> {
    let same = |name: &str, number: &str| names.get(number).is_some_and(|known| known.as_deref() == Some(name));
    let (name, number) = numbers
        .iter()
        .filter_map(|(name, number)| Some((name, number.as_ref()?)))
        .find(|(name, number)| !same(name, number.trim()))?;
    let known = names.get(number.trim()).map_or("no label", |known| known.as_deref().unwrap_or("null"));
    let [name, number, known] = [name.as_str(), number.as_str(), known].map(printable);
    Some(format!(
        "config.json contradicts itself: `label2id` has `{name}` as {number}, where `id2label` has `{known}`; `id2label` \
         counts, as in transformers"
    ))
}

/// The warning of classes with null as label.
fn nulls(names: &Names) -> Option<String> {
    let numbers: Vec<&str> =
        names.iter().filter(|(_, name)| name.is_none()).map(|(number, _)| number.as_str()).collect();
    let first = numbers.first()?;
    let called = numbers.iter().map(|number| format!("LABEL_{number}")).collect::<Vec<_>>().join(", ");
    Some(format!(
        "`id2label` in config.json has null for the label {}; it is called {}",
        printable(first),
        printable_sentence(&called)
    ))
}

/// The forms that a file of labels has, for messages.
const FORMS: &str = "expected a JSON list such as [\"calm\", \"stormy\"], an object such as {\"0\": \"calm\", \"1\": \
                     \"stormy\"} or {\"calm\": 0, \"stormy\": 1}, a config.json, or a text file with a label on each line";

/// Longest file of labels, in bytes.
const LONGEST: usize = 16 << 20;

/// Reads labels in the order of classes: a JSON list, an object in the form of `id2label` or of
/// `label2id`, a whole `config.json`, or lines of text.
pub fn read(path: &Path) -> Result<Vec<String>> {
    let file = json::file_name(path);
    let text = textfile::read(File::open(path).map_err(|e| Error::io("reading", path, &e))?, &file, LONGEST)?;
    let is_text = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
    let labels = match text.trim_start().chars().next() {
        Some('[' | '{') => match json::parse::<Value>(&text, &file) {
            Ok(value) => of_json(&value).map_err(|e| e.at(file.clone())),
            // A label may begin with a bracket, such as [PAD].
            Err(_) if is_text => of_lines(&text, &file),
            Err(e) => Err(e),
        },
        _ => of_lines(&text, &file),
    };
    let labels = labels.map_err(|e| e.hint(FORMS))?;
    match labels.is_empty() {
        true => Err(Error::bad_input(format!("{file} holds no labels")).hint(FORMS)),
        false => Ok(labels),
    }
}

fn of_json(value: &Value) -> Result<Vec<String>> {
    match value {
        Value::Array(names) => {
            let label =
                |(number, value): (usize, &Value)| name(value).ok_or_else(|| no_name(&number.to_string(), value));
            names.iter().enumerate().map(label).collect()
        }
        Value::Object(fields) => match (fields.get("id2label"), fields.get("label2id")) {
            (Some(Value::Object(names)), _) => numbered(&entries(names)?),
            (None | Some(Value::Null), Some(Value::Object(numbers))) => numbered(&inverted(&entries(numbers)?)),
            (None, None) => {
                let names = entries(fields)?;
                let inverse = inverted(&names);
                match in_order(&names) {
                    Some(labels) => Ok(labels),
                    None if inverse.len() == names.len() && in_order(&inverse).is_some() => numbered(&inverse),
                    None if names.keys().any(|key| key.trim().parse::<usize>().is_err()) => numbered(&inverse),
                    None => numbered(&names),
                }
            }
            _ => Err(Error::bad_input("`id2label` is no object")),
        },
        _ => Err(Error::bad_input("neither a list nor an object")),
    }
}

/// The entries of an object, none of which may be null.
fn entries(fields: &serde_json::Map<String, Value>) -> Result<Names> {
    let entry = |(key, value): (&String, &Value)| match name(value) {
        Some(name) => Ok((key.clone(), Some(name))),
        None => Err(no_name(key, value)),
    };
    fields.iter().map(entry).collect()
}

fn no_name(number: &str, value: &Value) -> Error {
    let [number, value] = [number, &value.to_string()].map(printable);
    Error::bad_input(format!("the label {number} is {value}, expected a text or a number"))
}

fn numbered(names: &Names) -> Result<Vec<String>> {
    in_order(names).ok_or_else(|| {
        let last = names.len().saturating_sub(1);
        Error::bad_input(format!("the labels {} are not numbered 0…{last}", summary(names)))
    })
}

/// A label on each line; blank lines at the end are none.
fn of_lines(text: &str, file: &str) -> Result<Vec<String>> {
    let labels: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    match labels.iter().position(String::is_empty) {
        Some(blank) if labels.len() > 1 => Err(Error::bad_input(format!(
            "{file} line {}: the line is blank, and the next label's number unclear",
            blank + 1
        ))),
        Some(_) => Ok(Vec::new()),
        None => Ok(labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fields: &str) -> CommonConfig {
        json::parse(&format!("{{{fields}}}"), "config.json").unwrap()
    }

    fn labels(fields: &str, classes: usize) -> (Vec<String>, Vec<String>) {
        config(fields).labels_of(classes)
    }

    #[test]
    fn names_that_fit_are_taken_without_a_word() {
        let cases = [
            (r#""id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": 0, "pos": 1}"#, ["neg", "pos"]),
            (r#""id2label": {"0": 1, "1": 2.5}, "label2id": {"1": 0, "2.5": 1}"#, ["1", "2.5"]),
            (r#""id2label": {"0": true, "1": false}"#, ["true", "false"]),
            // A duplicate label is in `label2id` once.
            (r#""id2label": {"0": "pos", "1": "pos"}, "label2id": {"pos": 1}"#, ["pos", "pos"]),
            (r#""id2label": {"00": "a", "1": "b"}, "label2id": null"#, ["a", "b"]),
            ("", ["LABEL_0", "LABEL_1"]),
            (r#""id2label": null, "num_labels": 2"#, ["LABEL_0", "LABEL_1"]),
        ];
        for (fields, expected) in cases {
            let (found, warnings) = labels(fields, 2);
            assert_eq!((found, warnings), (expected.map(str::to_owned).to_vec(), vec![]), "{fields}");
        }
        let ten: String = (0..11).map(|i| format!("\"{i}\": \"l{i}\", ")).collect();
        let ten = format!("\"id2label\": {{{}}}", ten.trim_end_matches(", "));
        assert_eq!(labels(&ten, 11).0[10], "l10");
    }

    #[test]
    fn names_that_do_not_fit_are_named_and_not_taken() {
        let cases = [
            // From 1, too few, too many, with a gap, by no numbers.
            (r#""id2label": {"1": "neg", "2": "neu", "3": "pos"}"#, "1 neg, 2 neu, 3 pos"),
            (r#""id2label": {"0": "neg", "1": "pos"}"#, "0 neg, 1 pos"),
            (r#""id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}"#, "0 a, 1 b, 2 c, 3 d"),
            (r#""id2label": {"0": "a", "1": "b", "3": "d"}"#, "0 a, 1 b, 3 d"),
            (r#""id2label": {"neg": "0", "neu": "1", "pos": "2"}"#, "neg 0, neu 1, pos 2"),
            (r#""id2label": {}"#, "the labels ,"),
        ];
        for (fields, summary) in cases {
            let (found, warnings) = labels(fields, 3);
            assert_eq!(found, ["LABEL_0", "LABEL_1", "LABEL_2"], "{fields}");
            let said =
                "but the classifier has the classes 0…2; they are called LABEL_0…LABEL_2. --labels FILE names them";
            assert!(warnings[0].contains(summary) && warnings[0].ends_with(said), "{warnings:?}");
        }
        let (found, warnings) = labels(r#""id2label": {"0": "a", "1": null}"#, 2);
        assert_eq!(found, ["a", "LABEL_1"]);
        assert_eq!(warnings, ["`id2label` in config.json has null for the label 1; it is called LABEL_1"]);
    }

    #[test]
    fn label2id_alone_is_used_with_a_warning_and_ignored_beside_id2label() {
        let (found, warnings) = labels(r#""label2id": {"neg": 1, "pos": "0"}"#, 2);
        assert_eq!(found, ["pos", "neg"]);
        assert!(warnings[0].contains("`label2id` alone") && warnings[0].contains("pos, neg"), "{warnings:?}");
        let (found, warnings) = labels(r#""label2id": {"neg": 1, "pos": 2}"#, 2);
        assert_eq!(found, ["LABEL_0", "LABEL_1"]);
        assert!(warnings[0].starts_with("`label2id` in config.json has the labels 1 neg, 2 pos, but"), "{warnings:?}");
        let both = r#""id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": 1, "pos": 0}"#;
        let (found, warnings) = labels(both, 2);
        assert_eq!(found, ["neg", "pos"]);
        assert_eq!(
            warnings,
            [
                "config.json contradicts itself: `label2id` has `neg` as 1, where `id2label` has `pos`; `id2label` counts, \
              as in transformers"
            ]
        );
    }

    #[test]
    fn a_name_is_a_text_or_a_number() {
        for value in ["[\"a\"]", "{\"a\": 1}"] {
            let text = format!(r#"{{"id2label": {{"0": {value}}}}}"#);
            let error = json::parse::<CommonConfig>(&text, "config.json").unwrap_err();
            assert!(error.message().starts_with("config.json: id2label"), "{error}");
            assert!(error.message().contains("expected a text or a number"), "{error}");
        }
    }

    fn of_file(name: &str, content: impl AsRef<[u8]>) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        read(&path)
    }

    #[test]
    fn a_file_of_labels_has_the_forms_that_people_have() {
        let cases = [
            ("l.json", "[\"calm\", \"stormy\", \"breezy\"]"),
            ("l.json", "\u{feff}[\"calm\", \"stormy\", \"breezy\"]"),
            ("l.txt", "[\"calm\", \"stormy\", \"breezy\"]"),
            ("l.json", "{\"2\": \"breezy\", \"0\": \"calm\", \"1\": \"stormy\"}"),
            ("l.json", "{\"calm\": 0, \"breezy\": 2, \"stormy\": 1}"),
            ("l.json", "{\"calm\": \"0\", \"breezy\": \"2\", \"stormy\": \"1\"}"),
            (
                "config.json",
                "{\"model_type\": \"bert\", \"id2label\": {\"0\": \"calm\", \"1\": \"stormy\", \"2\": \"breezy\"}, \
                 \"label2id\": {\"calm\": 0}}",
            ),
            ("config.json", "{\"label2id\": {\"calm\": 0, \"stormy\": 1, \"breezy\": 2}}"),
            ("l.txt", "calm\nstormy\nbreezy\n"),
            ("l.txt", "\u{feff}calm\r\nstormy\r\n breezy \r\n\r\n"),
            ("labels", "calm\nstormy\nbreezy"),
        ];
        for (name, content) in cases {
            assert_eq!(of_file(name, content).unwrap(), ["calm", "stormy", "breezy"], "{content}");
        }
        assert_eq!(of_file("l.json", "[1, 2.5, true]").unwrap(), ["1", "2.5", "true"]);
        assert_eq!(of_file("l.txt", "[PAD]\n{x}\n").unwrap(), ["[PAD]", "{x}"]);
        // Keys and values are numbers: keys are, as in config.json.
        assert_eq!(of_file("l.json", "{\"0\": 1, \"1\": 0}").unwrap(), ["1", "0"]);
        assert_eq!(of_file("l.json", "{\"1\": 0, \"2\": 1}").unwrap(), ["1", "2"]);
    }

    #[test]
    fn a_file_of_labels_that_is_none_shows_the_forms() {
        let cases: [(&str, &[u8], &str); 13] = [
            ("l.json", b"{\"1\": \"a\", \"2\": \"b\"}", "the labels 1 a, 2 b are not numbered 0…1\n  in l.json"),
            ("l.json", b"{\"a\": 0, \"b\": 2}", "the labels 0 a, 2 b are not numbered 0…1\n  in l.json"),
            ("l.json", b"[\"a\", null]", "the label 1 is null, expected a text or a number\n  in l.json"),
            ("l.json", b"[[\"a\"]]", "the label 0 is [\"a\"], expected a text or a number\n  in l.json"),
            ("l.json", b"{\"0\": {\"a\": 1}}", "the label 0 is {\"a\":1}, expected a text or a number\n  in l.json"),
            ("c.json", b"{\"id2label\": [\"a\"]}", "`id2label` is no object\n  in c.json"),
            ("l.json", b"{\"a\": 1,", "l.json: "),
            ("l.json", b"[]", "l.json holds no labels"),
            ("l.txt", b"", "l.txt holds no labels"),
            ("l.txt", b"\n \n", "l.txt holds no labels"),
            ("l.txt", b"a\n\nb\n", "l.txt line 2: the line is blank, and the next label's number unclear"),
            ("l.txt", b"a\n\xff\n", "l.txt line 2: not UTF-8"),
            ("l.txt", b"\xff\xfea\0\n\0", "l.txt is UTF-16 text, expected UTF-8"),
        ];
        for (name, content, expected) in cases {
            let said = of_file(name, content).unwrap_err().to_string();
            assert!(said.starts_with(expected), "{expected}\n{said}");
        }
        let said = of_file("l.json", "[]").unwrap_err().to_string();
        assert!(said.contains("hint: expected a JSON list such as [\"calm\", \"stormy\"], an object"), "{said}");
    }
}
