//! Tokenizers by all of their files, compared with AutoTokenizer of transformers 4 and 5 for the
//! same folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{fixture, repository};
use kilnc::front::hub::checkpoint::{Tokenizer, TokenizerUse};
use kilnc::runtime::{Lengths, Slide, TextEncoder, TextInput};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

#[derive(Deserialize)]
struct Cases {
    texts: Vec<String>,
    pairs: Vec<(String, String)>,
    cases: Vec<Case>,
}

/// A folder: a `tokenizer.json` with some parts replaced, and the files beside it.
#[derive(Deserialize)]
struct Case {
    name: String,
    model_type: String,
    base: String,
    parts: Map<String, Value>,
    files: BTreeMap<String, Value>,
}

/// The result of a version of `transformers` for a folder.
#[derive(Deserialize)]
#[serde(untagged)]
enum Found {
    Fails { fails: String },
    Answers(Answers),
}

#[derive(Debug, PartialEq, Deserialize)]
struct Answers {
    texts: Vec<Encoded>,
    pairs: Vec<Encoded>,
    mask: Option<String>,
    /// Texts and pairs that are cut to so many tokens as [`CUT`], in cases that are about it.
    #[serde(default)]
    cut: Vec<Vec<u32>>,
    /// Texts in windows of as many that share one with the next, in the order in which they are laid.
    #[serde(default)]
    windows: Vec<Vec<Vec<u32>>>,
}

const CUT: usize = 6;

#[derive(Debug, PartialEq, Deserialize)]
struct Encoded {
    ids: Vec<u32>,
    types: Vec<u32>,
    offsets: Vec<(usize, usize)>,
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = fixture("tokenizers/classes").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn base(name: &str) -> Map<String, Value> {
    let file = match name {
        "wordpiece" => fixture("tiny-bert/tokenizer.json"),
        "bpe" => fixture("tokenizers/bpe-roberta.json"),
        "bpe-bare" => fixture("tokenizers/bpe-modernbert.json"),
        "unigram" => fixture("tokenizers/unigram-roberta.json"),
        other => fixture("tokenizers").join(format!("{other}.json")),
    };
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

impl Case {
    fn folder(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut tokenizer = base(&self.base);
        tokenizer.insert("padding".to_owned(), Value::Null);
        tokenizer.insert("truncation".to_owned(), Value::Null);
        tokenizer.extend(self.parts.clone());
        let own = [("tokenizer.json".to_owned(), Value::Object(tokenizer))];
        for (name, content) in own.iter().map(|(name, content)| (name, content)).chain(&self.files) {
            fs::write(dir.path().join(name), content.to_string()).unwrap();
        }
        dir
    }

    fn field(&self, file: &str, key: &str) -> Option<&Value> {
        self.files.get(file)?.get(key)
    }

    fn open(&self, dir: &Path) -> Tokenizer {
        let usage = TokenizerUse {
            model_type: &self.model_type,
            class: self.field("config.json", "tokenizer_class").and_then(Value::as_str),
            token_types: self.has_types(),
            pairs: true,
            ..TokenizerUse::default()
        };
        Tokenizer::open(dir, &usage).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Whether models of the family read token types.
    fn has_types(&self) -> bool {
        ["albert", "bert", "deberta-v2", "electra", "xlnet"].contains(&self.model_type.as_str())
    }

    /// The version that saved the folder.
    fn saved_by_five(&self) -> bool {
        let config = |key| self.field("tokenizer_config.json", key);
        config("backend").is_some() || config("tokenizer_class") == Some(&json!("TokenizersBackend"))
    }
}

fn encoded(encoder: &TextEncoder, text: TextInput) -> Encoded {
    let split = encoder.split(&[text], &Lengths::cut(usize::MAX)).unwrap().remove(0);
    let tensors = encoder.encode(&[text]).unwrap();
    let numbers = |name: &str| -> Vec<u32> {
        let (_, tensor) = tensors.iter().find(|(given, _)| given == name).unwrap();
        match &tensor.elements {
            kilnc::runtime::Elements::I64(values) => values.iter().map(|value| *value as u32).collect(),
            other => panic!("{other:?}"),
        }
    };
    Encoded {
        ids: numbers("input_ids"),
        types: numbers("token_type_ids"),
        offsets: (0..split.len()).map(|token| split.offsets(token)).collect(),
    }
}

/// The rest of a text that is cut.
fn cut(encoder: &TextEncoder, text: TextInput) -> Vec<u32> {
    windows(encoder, text, Lengths::cut(CUT)).remove(0)
}

fn windows(encoder: &TextEncoder, text: TextInput, lengths: Lengths) -> Vec<Vec<u32>> {
    let split = encoder.split(&[text], &lengths).unwrap().remove(0);
    let ids = |tokens: &[usize]| tokens.iter().map(|token| split.id(*token).unwrap()).collect();
    split.windows().iter().map(|window| ids(&window.tokens)).collect()
}

#[test]
fn every_class_tokenizes_as_in_the_version_that_saved_it_with_a_note_where_the_other_differs() {
    let Cases { texts, pairs, cases } = read("cases.json");
    let [mut four, mut five] = ["answers-4.json", "answers-5.json"].map(read::<BTreeMap<String, Found>>);
    // Types that no model reads are not compared.
    for case in cases.iter().filter(|case| !case.has_types()) {
        for found in [&mut four, &mut five] {
            if let Some(Found::Answers(answers)) = found.get_mut(&case.name) {
                answers.texts.iter_mut().chain(&mut answers.pairs).for_each(|encoded| encoded.types.fill(0));
            }
        }
    }
    let mut wrong = Vec::new();
    for case in &cases {
        let dir = case.folder();
        let tokenizer = case.open(dir.path());
        let encoder = TextEncoder::parse(tokenizer.text().unwrap().to_owned(), 512);
        let encoder = encoder.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let mut found = Answers {
            texts: texts.iter().map(|text| encoded(&encoder, text.into())).collect(),
            pairs: pairs.iter().map(|(text, pair)| encoded(&encoder, TextInput { text, pair: Some(pair) })).collect(),
            mask: tokenizer.mask.clone(),
            cut: Vec::new(),
            windows: Vec::new(),
        };
        if case.name.contains("-cut-") {
            found.cut = texts.iter().map(|text| cut(&encoder, text.into())).collect();
            found.cut.extend(pairs.iter().map(|(text, pair)| cut(&encoder, TextInput { text, pair: Some(pair) })));
            let lengths = Lengths { window: CUT, stride: 1, truncate: false, slide: Slide::Second };
            found.windows = texts.iter().map(|text| windows(&encoder, text.into(), lengths)).collect();
            if case.name.contains("-cut-left") {
                found.windows.iter_mut().for_each(|windows| windows.reverse());
            }
        }
        if !case.has_types() {
            found.texts.iter_mut().chain(&mut found.pairs).for_each(|encoded| encoded.types.fill(0));
        }
        let (ours, others) = if case.saved_by_five() { (&five, &four) } else { (&four, &five) };
        match (&ours[&case.name], &others[&case.name]) {
            (Found::Answers(ours), others) => {
                for (text, (ours, found)) in texts.iter().zip(ours.texts.iter().zip(&found.texts)) {
                    if ours != found {
                        wrong.push(format!("{}: {text:?}\n  {ours:?}\n  {found:?}", case.name));
                    }
                }
                if (&ours.cut, &ours.windows) != (&found.cut, &found.windows) {
                    let (cut, windows) = ((&ours.cut, &found.cut), (&ours.windows, &found.windows));
                    wrong.push(format!("{}: cut\n  {cut:?}\n  {windows:?}", case.name));
                }
                if (&ours.pairs, &ours.mask) != (&found.pairs, &found.mask) {
                    let mask = (&ours.mask, &found.mask);
                    wrong.push(format!("{}: pairs\n  {:?}\n  {:?} {mask:?}", case.name, ours.pairs, found.pairs));
                }
                let same = |others: &Answers| {
                    let alike = |(a, b): (&Encoded, &Encoded)| (&a.ids, &a.types) == (&b.ids, &b.types);
                    ours.texts.iter().zip(&others.texts).all(alike) && ours.pairs.iter().zip(&others.pairs).all(alike)
                };
                if let Found::Answers(others) = others
                    && !same(others)
                    && tokenizer.notes.is_empty()
                {
                    wrong.push(format!("{}: the versions differ without a note", case.name));
                }
            }
            (Found::Fails { .. }, Found::Answers(others)) if *others == found => {}
            (Found::Fails { fails }, _) => {
                wrong.push(format!("{}: {fails}, and other than the other version", case.name))
            }
        }
        // A second read changes nothing.
        fs::write(dir.path().join("tokenizer.json"), tokenizer.text().unwrap()).unwrap();
        let again = case.open(dir.path());
        if again.json != tokenizer.json {
            wrong.push(format!("{}: another tokenizer when it is read again", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases.len() > 150);
}

/// A `tokenizer_config.json` of a decoder's class, and what version 4 makes of a text and of a pair.
#[derive(Deserialize)]
struct Framed {
    config: Value,
    text: Vec<u32>,
    pair: Vec<u32>,
    pads_left: bool,
}

#[test]
fn classes_of_decoders_put_the_tokens_around_texts_that_version_4_does() {
    let cases: Vec<Framed> = read("framed.json");
    assert!(cases.len() >= 39, "only {} cases", cases.len());
    for case in cases {
        let files = [("tokenizer_config.json".to_owned(), case.config.clone())];
        let folder = Case {
            name: case.config.to_string(),
            model_type: "llama".to_owned(),
            base: "bpe".to_owned(),
            parts: Map::new(),
            files: files.into(),
        };
        let dir = folder.folder();
        let tokenizer = folder.open(dir.path());
        assert_eq!(tokenizer.pads_left, case.pads_left, "{}", folder.name);
        let encoder = TextEncoder::parse(tokenizer.text().unwrap().to_owned(), 512).unwrap();
        let ids = |text, pair| encoded(&encoder, TextInput { text, pair }).ids;
        assert_eq!(ids("a mail server", None), case.text, "{}", folder.name);
        assert_eq!(ids("a mail server", Some("a game is fast")), case.pair, "{}", folder.name);
    }
}

#[test]
fn a_file_that_nothing_changes_keeps_its_bytes() {
    let place = tempfile::tempdir().unwrap();
    let from = repository("tests/fixtures/tiny-bert");
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        fs::copy(from.join(name), place.path().join(name)).unwrap();
    }
    let usage = TokenizerUse { model_type: "bert", token_types: true, ..TokenizerUse::default() };
    let tokenizer = Tokenizer::open(place.path(), &usage).unwrap();
    assert_eq!(tokenizer.text().unwrap(), fs::read_to_string(from.join("tokenizer.json")).unwrap());
    assert!(tokenizer.notes.is_empty(), "{:?}", tokenizer.notes);
    assert_eq!(tokenizer.files.len(), 2);
}

/// Values of JSON of any kind, small ones.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..70).prop_map(Value::from),
        prop_oneof![
            Just("[MASK]"),
            Just("mail"),
            Just("[PLACE]"),
            Just(""),
            Just("BertTokenizer"),
            Just("TokenizersBackend")
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        let key = prop_oneof![Just("content"), Just("lstrip"), Just("special"), Just("64"), Just("0")];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key.prop_map(str::to_owned), inner, 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Fields that a configuration may have.
const FIELDS: [&str; 15] = [
    "tokenizer_class",
    "do_lower_case",
    "strip_accents",
    "add_prefix_space",
    "trim_offsets",
    "model_max_length",
    "model_input_names",
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "mask_token",
    "backend",
    "truncation_side",
    "split_special_tokens",
    "auto_map",
];

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), cases: 400, ..ProptestConfig::default() })]

    /// For all files, there is a tokenizer or an error that names a file.
    #[test]
    fn no_configuration_is_too_unusual(said in prop::collection::btree_map(prop::sample::select(&FIELDS[..]), values(), 0..4), base_name in prop::sample::select(vec!["wordpiece", "bpe", "unigram"])) {
        let dir = tempfile::tempdir().unwrap();
        let said: Map<String, Value> = said.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        fs::write(dir.path().join("tokenizer.json"), Value::Object(base(base_name)).to_string()).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), Value::Object(said).to_string()).unwrap();
        let usage = TokenizerUse { model_type: "bert", token_types: true, pairs: true, rows: Some(64), ..TokenizerUse::default() };
        match Tokenizer::open(dir.path(), &usage) {
            Ok(tokenizer) => drop(TextEncoder::parse(tokenizer.text().unwrap().to_owned(), 64)),
            Err(error) => {
                prop_assert_eq!(error.exit_code(), 2);
                prop_assert!(error.message().starts_with("tokenizer_config.json: "), "{}", error);
            }
        }
    }
}
