//! Cut vocabularies: texts keep their tokens, and models their outputs.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::common::{fixture, minilm, place, repository};
use kilnc::back::onnx;
use kilnc::build::{self, CutModel, Model, Observer, Scheme, Source};
use kilnc::eval::{Example, Golden, read_examples};
use kilnc::ir::{Graph, Op};
use kilnc::passes::{CutVocabulary, Manager};
use kilnc::precision::Precision;
use kilnc::runtime::{self, Classes, Elements, Named, Options, Runtime, Tensor, TextEncoder, TextInput};
use kilnc::safetensors;
use kilnc::target::Target;
use kilnc::task::Task;
use kilnc::vocabulary::{CutTokenizer, Vocabulary};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

struct Quiet;

impl Observer for Quiet {}

fn load(checkpoint: &Path) -> Model {
    let source = Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None };
    build::load(&source).unwrap()
}

/// A model's outputs for some inputs.
struct Asked {
    engine: Box<dyn runtime::Engine>,
    _place: tempfile::TempDir,
}

impl Asked {
    fn of(model: &Model, target: &Target, runtime: Runtime) -> Asked {
        let graph =
            build::compile(model.graph(), &Scheme::new(target, Precision::Fp32), &mut Manager::default()).unwrap();
        let place = place();
        let path = place.path().join("model.onnx");
        onnx::write(&graph, &path, &|_| {}).unwrap();
        Asked { engine: runtime::open(runtime, &path, Options { threads: 1 }).unwrap(), _place: place }
    }

    fn answers(&mut self, inputs: &Named) -> Named {
        self.engine.run(inputs).unwrap()
    }
}

/// The inputs with tokens under their new numbers.
fn renumbered(inputs: &Named, kept: &[u32]) -> Named {
    let new = |old: &i64| kept.iter().position(|kept| i64::from(*kept) == *old).unwrap() as i64;
    let tensor = |(name, tensor): &(String, Tensor)| match (name.as_str(), &tensor.elements) {
        ("input_ids", Elements::I64(ids)) => {
            let elements = Elements::I64(ids.iter().map(new).collect());
            (name.clone(), Tensor { shape: tensor.shape.clone(), elements })
        }
        _ => (name.clone(), tensor.clone()),
    };
    inputs.iter().map(tensor).collect()
}

/// The largest difference of any element. Scores over the vocabulary are compared for the tokens that stay.
fn difference(before: &Named, after: &Named, kept: Option<&[u32]>) -> f32 {
    assert_eq!(before.len(), after.len());
    let mut largest = 0.0_f32;
    for ((name, before), (other, after)) in before.iter().zip(after) {
        assert_eq!(name, other);
        let (Elements::F32(a), Elements::F32(b)) = (&before.elements, &after.elements) else { panic!("{name}") };
        let width = *before.shape.last().unwrap();
        let a: Vec<f32> = match kept.filter(|_| name == "logits") {
            Some(kept) => a.chunks(width).flat_map(|row| kept.iter().map(|i| row[*i as usize])).collect(),
            None => a.clone(),
        };
        assert_eq!(a.len(), b.len(), "{name}");
        largest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(largest, f32::max);
    }
    largest
}

fn ids(inputs: &Named) -> BTreeSet<u32> {
    let (_, tensor) = inputs.iter().find(|(name, _)| name == "input_ids").unwrap();
    let Elements::I64(ids) = &tensor.elements else { panic!("ids are integers") };
    ids.iter().map(|id| u32::try_from(*id).unwrap()).collect()
}

/// Checkpoints of every family and head.
fn fixtures() -> Vec<PathBuf> {
    let inside = |path: PathBuf| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let families = inside(repository("tests/fixtures/families")).filter(|path| path.is_dir());
    let mut heads: Vec<_> =
        families.flat_map(inside).filter(|path| path.join("golden.safetensors").is_file()).collect();
    heads.sort();
    heads
}

#[test]
fn every_family_gives_the_same_outputs_with_the_tokens_of_the_corpus() {
    let fixtures = fixtures();
    assert!(fixtures.len() > 40, "the fixtures are not there");
    let (mut scored, mut moved) = (0, 0);
    for path in fixtures {
        let golden = Golden::read(&path.join("golden.safetensors")).unwrap();
        let kept: Vec<u32> = ids(golden.inputs()).into_iter().collect();
        let mut model = load(&path);
        let scores = model.task == Task::FillMask;
        let engines = [(Target::OrtCpu, Runtime::Ort), (Target::Tract, Runtime::Tract)];
        let before =
            engines.each_ref().map(|(target, runtime)| Asked::of(&model, target, *runtime).answers(golden.inputs()));
        let pass = CutVocabulary { kept: &kept, scores };
        model.program = Manager::default().run(model.graph(), &pass).unwrap().into();
        scored += usize::from(scores);
        moved += usize::from(places_of_padding(model.graph()).is_some_and(|(pad, place)| pad != place));
        for ((target, runtime), before) in engines.iter().zip(before) {
            let after = Asked::of(&model, target, *runtime).answers(&renumbered(golden.inputs(), &kept));
            let difference = difference(&before, &after, scores.then_some(&kept[..]));
            assert!(difference <= 1e-6, "{} on {runtime:?}: {difference}", path.display());
        }
    }
    assert!(scored > 10, "heads over the vocabulary were cut");
    assert!(moved > 5, "padding got another id and kept its position");
}

fn places_of_padding(graph: &Graph) -> Option<(i64, i64)> {
    graph.nodes().find_map(|(_, node)| match node.op {
        Op::TokenPositions { pad, place } => Some((pad, place)),
        _ => None,
    })
}

fn cut(model: &Model, corpus: &[Example], named: &[&str]) -> kilnc::Result<CutModel> {
    let texts = || Ok(corpus.iter().cloned().map(Ok));
    build::cut_vocabulary(model, texts, named, &mut Manager::default(), &Quiet)
}

fn texts(texts: &[&str]) -> Vec<Example> {
    texts.iter().map(|text| Example::unlabelled(text)).collect()
}

/// A checkpoint of the families with a tokenizer.
fn with_tokenizer(family: &str, tokenizer: &str) -> tempfile::TempDir {
    let copy = crate::common::copied(&format!("families/{family}"));
    std::fs::copy(fixture(&format!("tokenizers/{tokenizer}.json")), copy.path().join("tokenizer.json")).unwrap();
    // No class of another tokenizer is to add its tokens to this one.
    std::fs::write(copy.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#)
        .unwrap();
    copy
}

#[test]
fn models_with_tokenizers_of_every_kind_give_the_same_outputs() {
    let corpus = texts(&["tool for science", "a tool, a for", ""]);
    for (family, tokenizer) in [
        ("xlm-roberta/mlm", "unigram-roberta"),
        ("xlm-roberta/seqcls", "unigram-roberta"),
        ("camembert/base", "unigram-roberta"),
        ("albert/mlm", "unigram-albert"),
        ("deberta-v2/mlm", "unigram-albert"),
        ("xlnet/base", "unigram-albert"),
        ("roberta/mlm", "bpe-roberta"),
        ("roberta/seqcls", "bpe-roberta"),
        ("modernbert/mlm", "bpe-modernbert"),
    ] {
        let place = with_tokenizer(family, tokenizer);
        let mut model = load(place.path());
        let CutModel { graph, cut, report } = cut(&model, &corpus, &["n"]).unwrap_or_else(|e| panic!("{family}: {e}"));
        assert_eq!((report.tokens_before, report.rows_before, report.texts), (64, 64, 3), "{family}");
        assert_eq!((report.tokens, report.rows), (cut.kept.len(), cut.kept.len()), "{family}");
        assert!(report.tokens < 50 && report.used < report.tokens, "{family}: {report:?}");
        assert_eq!(report.bytes * 64, report.bytes_before * report.rows, "{family}");
        let old = TextEncoder::open(&place.path().join("tokenizer.json"), 512).unwrap();
        let new = TextEncoder::parse(cut.json.clone(), 512).unwrap();
        assert!(new.vocabulary().iter().any(|(_, token)| token == "n"), "{family}: a named token stays");
        let (before, after) =
            (old.encode(&[&corpus[0], &corpus[1]]).unwrap(), new.encode(&[&corpus[0], &corpus[1]]).unwrap());
        let known = |inputs: Named| -> Named {
            let takes = |name: &str| model.graph().inputs().iter().any(|id| model.graph().value(*id).name == name);
            inputs.into_iter().filter(|(name, _)| takes(name)).collect()
        };
        let (before, after) = (known(before), known(after));
        let expected = Asked::of(&model, &Target::OrtCpu, Runtime::Ort).answers(&before);
        let scores = model.task == Task::FillMask;
        model.program = graph.into();
        let found = Asked::of(&model, &Target::OrtCpu, Runtime::Ort).answers(&after);
        let difference = difference(&expected, &found, scores.then_some(&cut.kept[..]));
        assert!(difference <= 1e-6, "{family}: {difference}");
    }
}

#[test]
fn rows_that_no_token_has_are_dropped() {
    let model = load(&fixture("tiny-bert"));
    let rows = safetensors::read(&fixture("tiny-bert/model.safetensors")).unwrap();
    let table = rows.iter().find(|(name, _)| name.ends_with("word_embeddings.weight")).unwrap().1.shape()[0];
    let pair = Example { pair: Some("the second".to_owned()), ..Example::unlabelled("a text") };
    let CutModel { cut, report, .. } = cut(&model, &[pair], &[]).unwrap();
    assert_eq!(report.rows_before, table);
    assert!(cut.kept.len() < table / 2, "{report:?}");

    // 67 rows where the tokenizer has 64 tokens.
    let copy = with_tokenizer("bert/mlm-extra-rows", "unigram-albert");
    let model = load(copy.path());
    assert_eq!(model.extended.map(|extended| (extended.rows, extended.checked)), Some((67, true)));
    let CutModel { report, .. } = self::cut(&model, &texts(&["science"]), &[]).unwrap();
    assert_eq!((report.rows_before, report.tokens_before), (67, 64));
    assert_eq!(report.rows, report.tokens);

    // The same rows with three tokens that were added for them, two of which no text has.
    let path = copy.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (content, id) in [("<one>", 64), ("<two>", 65), ("<three>", 66)] {
        let mut added = tokenizer["added_tokens"][4].clone();
        (added["content"], added["id"]) = (json!(content), json!(id));
        tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    }
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let model = load(copy.path());
    let CutModel { cut, report, .. } = self::cut(&model, &texts(&["science <two>"]), &[]).unwrap();
    assert_eq!(report.tokens_before, 67);
    assert_eq!(cut.kept[cut.kept.len() - 3..], [64, 65, 66]);
}

#[test]
fn minilm_gives_the_same_vectors_with_the_tokens_of_its_texts() {
    let mut model = load(&minilm());
    let files = ["models/sections-calib.jsonl", "models/sections-eval.jsonl"].map(repository);
    let corpus: Vec<Example> =
        files.iter().flat_map(|file| read_examples(file, &Classes::default()).unwrap()).collect();
    let CutModel { graph, cut, report } = cut(&model, &corpus, &[]).unwrap();
    println!("{report:?}: {:.1} % of the rows stay", 100.0 * report.rows as f64 / report.rows_before as f64);
    assert_eq!((report.texts, report.rows_before), (826, 30522));
    assert!(report.rows < report.rows_before / 3, "{report:?}");
    let old = TextEncoder::open(&minilm().join("tokenizer.json"), 256).unwrap();
    let new = TextEncoder::parse(cut.json.clone(), 256).unwrap();
    let mut before = Asked::of(&model, &Target::OrtCpu, Runtime::Ort);
    model.program = graph.into();
    let mut after = Asked::of(&model, &Target::OrtCpu, Runtime::Ort);
    for example in corpus.iter().step_by(4) {
        let expected = before.answers(&old.encode(&[example]).unwrap());
        assert_eq!(
            difference(&expected, &after.answers(&new.encode(&[example]).unwrap()), None),
            0.0,
            "{}",
            example.text
        );
    }
}

/// The tokenizer of a text of JSON, cut to a corpus; texts must have the same tokens by name.
fn check_cut(tokenizer: &str, corpus: &[String]) -> kilnc::Result<CutTokenizer> {
    let vocabulary = Vocabulary::parse(tokenizer.to_owned())?;
    let texts = || corpus.iter().cloned().map(Ok);
    let used = vocabulary.used(texts())?;
    let cut = vocabulary.cut(&used, &[])?;
    vocabulary.check(&cut, texts())?;
    let after = TextEncoder::parse(cut.json.clone(), usize::MAX)?;
    let named = |encoder: &TextEncoder| -> Vec<Vec<String>> {
        let names: HashMap<u32, String> = encoder.vocabulary().into_iter().collect();
        let inputs: Vec<TextInput> = corpus.iter().map(Into::into).collect();
        encoder.ids(&inputs).unwrap().iter().map(|ids| ids.iter().map(|id| names[id].clone()).collect()).collect()
    };
    assert_eq!(named(&after), named(vocabulary.encoder()));
    // A piece that a Unigram model has twice has its last id.
    let vocab = serde_json::from_str::<Value>(&cut.json).unwrap()["model"]["vocab"].take();
    let own = vocab.as_array().map_or(after.vocabulary().len(), Vec::len);
    assert_eq!(own, cut.kept.len(), "numbers have no gaps");
    assert!(after.vocabulary().iter().all(|(number, _)| (*number as usize) < own));
    Ok(cut)
}

fn around_words(model: Value) -> String {
    json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model})
        .to_string()
}

fn word() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(vec!['a', 'b', 'c', 'é']), 1..4).prop_map(String::from_iter)
}

/// Texts of up to four words, with characters that no model knows.
fn corpus() -> impl Strategy<Value = Vec<String>> {
    let letters = vec!['a', 'a', 'b', 'b', 'c', 'é', 'x'];
    let word = proptest::collection::vec(proptest::sample::select(letters), 1..8).prop_map(String::from_iter);
    proptest::collection::vec(proptest::collection::vec(word, 1..5).prop_map(|words| words.join(" ")), 1..4)
}

/// Tokens under numbers in some order.
fn numbered(tokens: impl IntoIterator<Item = String>, order: u64) -> serde_json::Map<String, Value> {
    let mut tokens: Vec<String> = tokens.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let count = tokens.len().max(1);
    tokens.rotate_left(order as usize % count);
    tokens.into_iter().zip(0..).map(|(token, number)| (token, json!(number))).collect()
}

/// Every character, and tokens merged from two others, with their merges.
fn merged(picks: &[(usize, usize)], prefix: &str, suffix: &str) -> (BTreeSet<String>, Vec<Value>) {
    let first =
        |c: char| [c.to_string(), format!("{c}{suffix}"), format!("{prefix}{c}"), format!("{prefix}{c}{suffix}")];
    let mut tokens: Vec<String> = "abcé".chars().flat_map(first).collect();
    let mut merges = Vec::new();
    for (a, b) in picks {
        let (a, b) = (&tokens[a % tokens.len()], &tokens[b % tokens.len()]);
        let Some(rest) = b.strip_prefix(prefix).filter(|_| a.len() + b.len() < 60) else { continue };
        let (merge, token) = (json!([a, b]), format!("{a}{rest}"));
        merges.push(merge);
        tokens.push(token);
    }
    (tokens.into_iter().collect(), merges)
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn texts_keep_their_word_pieces(
        words in proptest::collection::vec((word(), any::<bool>()), 1..12), texts in corpus(), order in any::<u64>(),
    ) {
        let tokens = words.into_iter().map(|(word, inside)| if inside { format!("##{word}") } else { word });
        let vocab = numbered(tokens.chain(["[UNK]".to_owned()]), order);
        check_cut(&around_words(json!({
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 6, "vocab": vocab,
        })), &texts).unwrap();
    }

    #[test]
    fn texts_keep_their_words(
        words in proptest::collection::vec(word(), 1..12), texts in corpus(), order in any::<u64>(),
    ) {
        let vocab = numbered(words.into_iter().chain(["[UNK]".to_owned()]), order);
        check_cut(&around_words(json!({"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab})), &texts).unwrap();
    }

    /// Scores that are often equal: the earliest of equal ways must stay the earliest.
    #[test]
    fn texts_keep_their_scored_pieces(
        pieces in proptest::collection::vec((word(), 0..7_i32), 1..20), texts in corpus(), known in any::<bool>(),
        bytes in any::<bool>(),
    ) {
        let mut vocab: Vec<Value> = pieces.iter().map(|(piece, score)| json!([piece, -f64::from(*score) / 4.0])).collect();
        if bytes {
            vocab.extend((0..256).map(|byte| json!([format!("<0x{byte:02X}>"), -1.0])));
        }
        // Without an unknown token, texts may have no tokens at all, and then there is nothing to keep.
        let texts = if known { texts } else { texts.iter().map(|text| text.replace('x', "a")).collect() };
        if !known {
            vocab.extend("abcé".chars().map(|c| json!([c.to_string(), -3.0])));
        }
        let unknown = known.then_some(vocab.len());
        vocab.push(json!(["<unk>", 0.0]));
        check_cut(&around_words(json!({
            "type": "Unigram", "unk_id": unknown, "byte_fallback": bytes, "vocab": vocab,
        })), &texts).unwrap();
    }

    #[test]
    fn texts_keep_their_merged_pairs(
        picks in proptest::collection::vec((0..64_usize, 0..64_usize), 0..24), texts in corpus(), order in any::<u64>(),
        options in any::<[bool; 5]>(),
    ) {
        let [fuse, bytes, whole, prefixed, ended] = options;
        let (prefix, suffix) = (if prefixed { "##" } else { "" }, if ended { "</w>" } else { "" });
        let (mut tokens, merges) = merged(&picks, prefix, suffix);
        if bytes {
            tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        }
        tokens.insert("<unk>".to_owned());
        check_cut(&around_words(json!({
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": fuse, "byte_fallback": bytes, "ignore_merges": whole,
            "continuing_subword_prefix": prefixed.then_some(prefix), "end_of_word_suffix": ended.then_some(suffix),
            "vocab": numbered(tokens, order), "merges": merges,
        })), &texts).unwrap();
    }
}

#[test]
fn tokens_beside_the_model_come_after_its_own() {
    let text = std::fs::read_to_string(fixture("tokenizers/bpe-modernbert.json")).unwrap();
    let cut = check_cut(&text, &["of tools".to_owned()]).unwrap();
    assert_eq!(cut.kept[cut.kept.len() - 5..], [59, 60, 61, 62, 63]);
    let after: Value = serde_json::from_str(&cut.json).unwrap();
    let own = after["model"]["vocab"].as_object().unwrap().len();
    assert_eq!(own + 5, cut.kept.len());
    assert_eq!(after["added_tokens"][0]["id"], own);
    assert_eq!(after["post_processor"]["special_tokens"]["[SEP]"]["ids"], json!([own + 3]));
    let order = ["version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor"];
    let places = order.map(|key| cut.json.find(&format!("\"{key}\":")).unwrap());
    assert!(places.is_sorted(), "the fields keep their order");
}

#[test]
fn a_corpus_without_tokens_is_refused() {
    let text = std::fs::read_to_string(fixture("tiny-bert/tokenizer.json")).unwrap();
    let vocabulary = Vocabulary::parse(text).unwrap();
    let said = |texts: &[&str]| {
        let corpus = texts.iter().map(|text| Ok((*text).to_owned()));
        let error = vocabulary.used::<String>(corpus).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error
    };
    assert_eq!(said(&["", "  "]).message(), "2 texts, and no token in any of them");
    assert_eq!(said(&[]).message(), "0 texts, and no token in any of them");
    let long = "a".repeat(kilnc::runtime::LONGEST_TEXT + 1);
    let error = said(&["a", &long]);
    assert_eq!(error.message(), "a text of 1048577 bytes, at most 1048576 are read");
    assert_eq!(error.locations(), ["text 2"]);
}

#[test]
fn a_tokenizer_that_cannot_be_cut_is_refused() {
    let sound = || -> Value {
        let text = std::fs::read_to_string(fixture("tokenizers/bpe-roberta.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let said = |change: &dyn Fn(&mut Value)| {
        let mut tokenizer = sound();
        change(&mut tokenizer);
        let error = Vocabulary::parse(tokenizer.to_string()).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        error.message().to_owned()
    };
    Vocabulary::parse(sound().to_string()).unwrap();
    assert_eq!(
        said(&|t| t["model"]["type"] = json!("Hashes")),
        "tokenizer.json: model: the vocabulary of a `Hashes` is not cut"
    );
    assert_eq!(said(&|t| *t = json!({})), "tokenizer.json: missing field `model`");
    assert!(said(&|t| t["model"]["dropout"] = json!(0.1)).contains("of the merges are left out at random"));
    assert_eq!(
        said(&|t| t["post_processor"]["sep"] = json!(["</s>", 64])),
        "tokenizer.json: post_processor.sep: no token has the id 64"
    );
    assert_eq!(
        said(&|t| t["padding"] = json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 70, "pad_type_id": 0, "pad_token": "<pad>"})),
        "tokenizer.json: padding.pad_id: no token has the id 70"
    );
    // The library numbers added tokens by the count of tokens: here that is the number of the last one.
    let collides = |t: &mut Value| {
        let vocab = t["model"]["vocab"].as_object_mut().unwrap();
        let last = vocab.iter().find(|(_, n)| **n == json!(63)).unwrap().0.clone();
        vocab.insert(last, json!(64));
        let mut added = t["added_tokens"][0].clone();
        added["content"] = json!("<new>");
        added["id"] = json!(64);
        t["added_tokens"].as_array_mut().unwrap().push(added);
    };
    assert!(said(&collides).ends_with("have the same id 64"), "{}", said(&collides));
    let vocabulary = Vocabulary::parse(sound().to_string()).unwrap();
    let used = vocabulary.used([Ok("a".to_owned())]).unwrap();
    let error = vocabulary.cut(&used, &["<masc>"]).unwrap_err();
    assert_eq!(error.message(), "tokenizer.json: there is no token `<masc>` to keep");
    assert_eq!(error.hints(), ["did you mean `<mask>`?"]);
}

#[test]
fn tokens_past_the_rows_of_the_embedding_are_refused() {
    let copy = crate::common::copied("families/roberta/mlm");
    std::fs::copy(fixture("tiny-bert/tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    let error = cut(&load(copy.path()), &texts(&["a text"]), &[]).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.message().ends_with("has the id 120, but the embedding has 64 rows"), "{error}");
    std::fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
    let error = cut(&load(copy.path()), &texts(&["a text"]), &[]).err().unwrap();
    assert!(error.message().ends_with("tokenizer.json is missing"), "{error}");
}
