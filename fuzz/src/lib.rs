//! The fuzz targets, one function for each reader.
//!
//! For all bytes, a reader returns their meaning or an error that its sender can act on. `tests/corpus.rs` runs
//! the same functions on the corpus that the fuzzer found, `tests/properties.rs` on its own inputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use base64ct::{Base64UrlUnpadded, Encoding};

use kilnc::build::{self, Source};
use kilnc::bundle::runtimes::{self, Found};
use kilnc::bundle::signing::{self, PublicKey};
use kilnc::bundle::{self, Bundle, Manifest};
use kilnc::error::{Kind, Result};
use kilnc::eval::{Tagged, Truth, kind, parse_examples, parse_masked, parse_pairs, parse_questions, parse_tagged};
use kilnc::front;
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::front::hub::arch::{self, FAMILIES};
use kilnc::front::hub::checkpoint::{
    Checkpoint, CommonConfig, StateDict, Tensor, Tokenizer, TokenizerUse, labels as names, licence, read_quantized,
    shards, torch,
};
use kilnc::ir::weight::{BlockPart, Blocks};
use kilnc::ir::{Weight, text};
use kilnc::recipe::Recipe;
use kilnc::runtime::{Classes, Platform, ProblemType, Runtime, TextEncoder};
use kilnc::task::Task;
use kilnc::task::lines::{OnError, check_lines};
use kilnc::textfile as tf;
use kilnc::verify::verify;
use kilnc::vocabulary::Vocabulary;
use kilnc::{json, safetensors as st};
use sha2::{Digest, Sha256};

/// A fuzz target: its name, which is that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 22] = [
    ("safetensors", safetensors),
    ("torch_zip", torch_zip),
    ("torch_pickle", torch_pickle),
    ("torch_stream", torch_stream),
    ("config", config),
    ("index", index),
    ("tokenizer", tokenizer),
    ("graph", graph),
    ("recipe", recipe),
    ("texts", texts),
    ("manifest", manifest),
    ("bundle_archive", bundle_archive),
    ("signature", signature),
    ("front_matter", front_matter),
    ("wheel", wheel),
    ("tokenizer_files", tokenizer_files),
    ("sentence", sentence),
    ("labels", labels),
    ("textfile", textfile),
    ("adapter_config", adapter_config),
    ("gguf", gguf),
    ("quantized", quantized),
];

/// The result, after an error was checked as every error must be: it is of the input, not of kilnc, short, and
/// cannot move the cursor.
#[track_caller]
fn checked<T>(result: Result<T>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let message = error.message();
    assert!(matches!(error.kind(), Kind::BadInput | Kind::Unsupported), "{error:?}");
    assert!(!message.is_empty() && message.chars().count() < 2000, "{error:?}");
    for part in error.locations().iter().chain(error.hints()).map(String::as_str).chain([message]) {
        assert!(!part.contains(char::is_control), "{part:?}");
    }
    None
}

fn utf8(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Every tensor that was read can be evaluated.
fn evaluated(tensors: &[(String, Weight)]) {
    for (_, weight) in tensors {
        assert_eq!(weight.evaluate().unwrap().as_bytes().len(), weight.byte_len());
    }
}

/// A safetensors file. What kilnc reads, the reference reader reads, with the same bytes.
pub fn safetensors(bytes: &[u8]) {
    let Some(tensors) = checked(st::parse(Arc::new(bytes.to_vec()))) else { return };
    let reference = ::safetensors::SafeTensors::deserialize(bytes).unwrap();
    assert_eq!(tensors.len(), reference.len());
    for (name, weight) in tensors {
        let view = reference.tensor(&name).unwrap();
        assert_eq!(weight.shape(), view.shape());
        // FP8 is decoded when it is evaluated.
        let stored = weight.packing().map_or(&weight, |(_, parts)| &parts[0]);
        assert_eq!(stored.evaluate().unwrap().as_bytes(), view.data());
    }
}

/// A line with a `config.json`, and then the safetensors file of a quantized checkpoint.
pub fn quantized(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (config, file) = bytes.split_at(end);
    let Some(config) = utf8(config).and_then(|text| checked(json::parse::<CommonConfig>(text, "config.json"))) else {
        return;
    };
    let Some(tensors) = checked(st::parse(Arc::new(file[1..].to_vec()))) else { return };
    let mut state = StateDict::default();
    for (name, weight) in tensors {
        state.insert(name, Tensor { weight, file: "model.safetensors".into() });
    }
    let Some((state, _)) = checked(read_quantized(&config, state)) else { return };
    let how = [4, 8].map(|bits| Blocks { bits, size: 16, zero_points: true });
    for (_, tensor) in state.iter().filter(|(_, tensor)| tensor.weight.is_quantized()) {
        checked(tensor.weight.evaluate().map(drop));
        for how in how.into_iter().filter(|_| tensor.weight.shape().len() == 2) {
            for part in [BlockPart::Values, BlockPart::Scales, BlockPart::ZeroPoints] {
                let part = tensor.weight.in_blocks(how, part).unwrap();
                if let Some(evaluated) = checked(part.evaluate()) {
                    assert_eq!(evaluated.as_bytes().len(), part.byte_len());
                }
            }
        }
    }
}

/// An archive of `torch.save`.
pub fn torch_zip(bytes: &[u8]) {
    evaluated(&checked(torch::parse(Arc::new(bytes.to_vec()))).unwrap_or_default());
}

/// The pickle of a sound archive, which has two storages. The checksums of an archive would keep a fuzzer out.
pub fn torch_pickle(bytes: &[u8]) {
    torch_zip(&archive(&[("m/data.pkl", bytes), ("m/data/0", &[0; 8]), ("m/data/1", &[1; 64])]));
}

/// A stream of `torch.save` before 1.6, without the magic number that it begins with.
pub fn torch_stream(bytes: &[u8]) {
    torch_zip(&[b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", bytes].concat());
}

/// A file of llama.cpp. What is read of it can be evaluated, its tokenizer is one, and a graph that is built keeps the
/// specification.
pub fn gguf(bytes: &[u8]) {
    let parsed = front::gguf::parse(Arc::new(bytes.to_vec()), Path::new("model.gguf"));
    let Some(mut checkpoint) = checked(parsed) else { return };
    for (_, tensor) in checkpoint.state.iter() {
        // Only a scale that is no number can fail.
        if let Some(floats) = checked(tensor.weight.evaluate()) {
            assert_eq!(floats.as_bytes().len(), tensor.weight.byte_len());
        }
    }
    let usage = TokenizerUse { model_type: "llama", ..TokenizerUse::default() };
    if let Some(text) = checked(Tokenizer::open(&checkpoint.encoder, &usage)).and_then(|tokenizer| tokenizer.json) {
        checked(TextEncoder::parse(text, 512));
    }
    if checked(arch::complete(&mut checkpoint)).is_none() {
        return;
    }
    let Some(state) = checked(arch::canonical_state(&checkpoint)) else { return };
    if let Some(built) = checked(arch::build(&checkpoint, &state, None)) {
        verify(built.graph).unwrap();
    }
}

/// A `config.json` over the tensors of a tiny model of its family. The built graph keeps the specification.
pub fn config(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    let Some(common) = checked(json::parse::<CommonConfig>(text, "config.json")) else { return };
    let state = common.model_type.as_deref().and_then(|family| STATES.get(family)).cloned().unwrap_or_default();
    let (dir, encoder, config) = (PathBuf::new(), PathBuf::new().into(), text.to_owned());
    let checkpoint = Checkpoint {
        dir,
        encoder,
        config,
        common,
        sentence: None,
        state,
        quantized: None,
        files: Vec::new(),
        notes: Vec::new(),
    };
    let Some(state) = checked(arch::canonical_state(&checkpoint)) else { return };
    for task in Task::ALL.into_iter().map(Some).chain([None]) {
        if let Some(built) = checked(arch::build(&checkpoint, &state, task)) {
            verify(built.graph).unwrap();
        }
    }
}

/// The tensors of a model of every family, with the heads of classifiers and of masked LMs.
static STATES: LazyLock<BTreeMap<&str, StateDict>> = LazyLock::new(|| {
    let state = |family: &str| {
        let mut state = StateDict::default();
        for head in ["mlm", "seqcls"].map(|head| fixtures().join("families").join(family).join(head)) {
            let file = head.join("model.safetensors");
            for (name, weight) in if file.is_file() { st::read(&file).unwrap() } else { Vec::new() } {
                state.insert(name, kilnc::front::hub::checkpoint::Tensor { weight, file: "model.safetensors".into() });
            }
        }
        state
    };
    FAMILIES.iter().map(|family| (family.model_type, state(family.model_type))).collect()
});

/// The fixtures of the tests.
fn fixtures() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = if root.ends_with("fuzz") { root.parent().unwrap() } else { root };
    root.join("tests/fixtures")
}

/// Files of a folder in one input: before each a line with three dashes and its path. Those that are not `known` are left
/// out.
fn folder(bytes: &[u8], known: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let name = line.strip_prefix(b"--- ").and_then(|name| std::str::from_utf8(name).ok()).map(str::trim_end);
        match (name, files.last_mut()) {
            (Some(name), _) => files.push((name.to_owned(), Vec::new())),
            (None, Some((_, content))) => content.extend(line),
            (None, None) => {}
        }
    }
    files.retain(|(name, _)| known.contains(&name.as_str()));
    files
}

/// Writes files below a folder.
fn write(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, content) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// Messages hold nothing that moves a cursor.
fn clean(lines: &[String]) {
    assert!(lines.iter().all(|line| !line.is_empty() && !line.contains(char::is_control)), "{lines:?}");
}

/// The files beside a `tokenizer.json`, and that one if it is there, for tokenizers of every kind of model. The result
/// is a tokenizer, or an error.
pub fn tokenizer_files(bytes: &[u8]) {
    const KNOWN: [&str; 4] =
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
    let files = folder(bytes, &KNOWN);
    let bases = [
        ("bert", "tiny-bert/tokenizer.json"),
        ("roberta", "tokenizers/bpe-roberta.json"),
        ("modernbert", "tokenizers/bpe-modernbert.json"),
        ("xlm-roberta", "tokenizers/unigram-roberta.json"),
    ];
    for (model_type, base) in bases {
        let place = tempfile::tempdir().unwrap();
        std::fs::copy(fixtures().join(base), place.path().join("tokenizer.json")).unwrap();
        write(place.path(), &files);
        let usage =
            TokenizerUse { model_type, token_types: true, pairs: true, rows: Some(128), ..TokenizerUse::default() };
        let Some(tokenizer) = checked(Tokenizer::open(place.path(), &usage)) else { continue };
        clean(&tokenizer.notes);
        assert!(tokenizer.max_length.is_none_or(|length| length >= 2));
        let Some(encoder) = checked(TextEncoder::parse(tokenizer.text().unwrap().to_owned(), 16)) else { continue };
        checked(encoder.check_rows(128));
        checked(
            encoder.encode(&["", "a [MASK] of <mask> mail servers, and more of them than there is room for in so few"]),
        );
    }
}

/// The files of a model of sentence-transformers. The built graph keeps the specification.
pub fn sentence(bytes: &[u8]) {
    const KNOWN: [&str; 7] = [
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_LayerNorm/config.json",
        "2_Normalize/config.json",
    ];
    let place = tempfile::tempdir().unwrap();
    let model = fixtures().join("sentence/all-modes-dense");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(model.join(name), place.path().join(name)).unwrap();
    }
    let files = folder(bytes, &KNOWN);
    write(place.path(), &files);
    if place.path().join("2_Dense").is_dir() {
        let tensors = "2_Dense/model.safetensors";
        std::fs::copy(model.join(tensors), place.path().join(tensors)).unwrap();
    }
    for task in [None, Some(Task::SentenceSimilarity), Some(Task::FeatureExtraction)] {
        let source = Source { checkpoint: place.path().to_owned(), adapters: Vec::new(), combine: None, task };
        if let Some(model) = checked(build::load(&source)) {
            clean(&build::warnings(&model));
            assert!(model.prompt.is_none_or(|prompt| !prompt.text.is_empty()));
        }
    }
}

/// Labels: a file of labels, and a configuration's.
pub fn labels(bytes: &[u8]) {
    let place = tempfile::tempdir().unwrap();
    for name in ["labels.json", "labels.txt"] {
        let path = place.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        if let Some(labels) = checked(names::read(&path)) {
            assert!(!labels.is_empty());
        }
    }
    let Some(text) = utf8(bytes) else { return };
    let Some(common) = checked(json::parse::<CommonConfig>(text, "config.json")) else { return };
    for answers in [1, 2, 3] {
        let (labels, warnings) = common.labels_of(answers);
        assert_eq!(labels.len(), answers);
        clean(&warnings);
    }
}

/// A file of text, line by line and whole. A line that is read has nothing of its end, and NUL is in none.
pub fn textfile(bytes: &[u8]) {
    let mut lines = tf::Lines::of(bytes);
    let mut count = 0;
    while let Some(Some(line)) = checked(lines.next("t.txt")) {
        count += 1;
        if let Some(text) = checked(line.text) {
            assert!(!text.contains(['\n', '\r', '\0']) && !text.starts_with('\u{feff}'), "{text:?}");
        }
    }
    assert!(count <= bytes.iter().filter(|byte| **byte == b'\n').count() + 1);
    if let Some(text) = checked(tf::read(bytes, "t.txt", 1 << 20)) {
        assert!(text.is_empty() || text.ends_with('\n'));
        assert!(!text.contains(['\r', '\0']));
    }
}

/// An `adapter_config.json` over the tensors of a LoRA. The merged graph keeps the specification.
pub fn adapter_config(bytes: &[u8]) {
    let place = tempfile::tempdir().unwrap();
    let tensors = "adapter_model.safetensors";
    std::fs::copy(fixtures().join("adapters/lora").join(tensors), place.path().join(tensors)).unwrap();
    std::fs::write(place.path().join("adapter_config.json"), bytes).unwrap();
    let adapters = vec![AdapterSource { dir: place.path().to_owned(), scale: 1.0 }];
    let checkpoint = fixtures().join("families/bert/base");
    if let Some(model) = checked(build::load(&Source { checkpoint, adapters, combine: None, task: None })) {
        clean(&build::warnings(&model));
    }
}

/// The index of a checkpoint in shards. Every file that it names is beside it.
pub fn index(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    for name in checked(shards::parse(text, "x.index.json")).unwrap_or_default().into_values() {
        assert_eq!(Path::new("/dir").join(&name).parent(), Some(Path::new("/dir")), "{name}");
    }
}

/// A `tokenizer.json`, and texts for it.
pub fn tokenizer(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    let Some(encoder) = checked(TextEncoder::parse(text.to_owned(), 16)) else { return };
    checked(encoder.check_rows(1000));
    let texts = ["", "Naïve  tokens, 3 of them's\tthe\n``x'' … 漢字 [MASK]"];
    for text in texts {
        checked(encoder.encode(&[text]));
    }
    let corpus = || texts.map(|text| Ok(text.to_owned()));
    let Some(vocabulary) = checked(Vocabulary::parse(text.to_owned())) else { return };
    let Some(used) = checked(vocabulary.used(corpus())) else { return };
    if let Some(cut) = checked(vocabulary.cut(&used, &[])) {
        vocabulary.check(&cut, corpus()).unwrap();
    }
}

/// A graph as text. An accepted one prints to a text that means the same, and can be verified.
pub fn graph(bytes: &[u8]) {
    let Some(graph) = checked(text::parse(&String::from_utf8_lossy(bytes))) else { return };
    let printed = graph.to_string();
    let again = text::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert_eq!(again.to_string(), printed);
    let _ = verify(graph);
}

/// A recipe.
pub fn recipe(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    if let Some(recipe) = checked(Recipe::parse(text, "r.toml")) {
        assert!(!recipe.engines_or_default().is_empty());
    }
}

/// Labelled texts of every task, and texts to run. None of those that are read is empty or has its own label.
pub fn texts(bytes: &[u8]) {
    for task in Task::ALL {
        for on_error in [OnError::Fail, OnError::Skip, OnError::Empty] {
            checked(check_lines(bytes, "t.jsonl", task, on_error));
        }
    }
    for problem_type in [ProblemType::SingleLabel, ProblemType::MultiLabel, ProblemType::Regression] {
        let classes = Classes { labels: ["web", "mail"].map(str::to_owned).to_vec(), problem_type };
        for example in checked(parse_examples(bytes, "t.jsonl", &classes)).unwrap_or_default() {
            assert!(!example.text.trim().is_empty());
            match example.truth {
                Some(Truth::Classes(found)) => assert!(found.iter().all(|class| *class < 2) && found.is_sorted()),
                Some(Truth::Numbers(found)) => assert!(found.len() == 2 && found.iter().all(|n| n.is_finite())),
                // No two labels have one name.
                Some(Truth::Names(found)) => panic!("{found:?}"),
                None => {}
            }
        }
    }
    labelled(bytes);
}

/// Labelled texts of the tasks that are not of classes of texts.
fn labelled(bytes: &[u8]) {
    let labels = ["O", "B-PER", "I-PER", "LOC"].map(str::to_owned);
    for tagged in checked(parse_tagged(bytes, "t.jsonl", &labels)).unwrap_or_default() {
        match tagged.row {
            Tagged::Words { words, tags } => {
                assert_eq!(words.len(), tags.len());
                assert!(tags.iter().all(|tag| matches!(kind(tag), None | Some("PER" | "LOC"))));
            }
            Tagged::Text { text, entities } => {
                let length = text.chars().count();
                assert!(entities.iter().all(|entity| entity.start < entity.end && entity.end <= length));
                assert!(entities.is_sorted_by(|a, b| a.end <= b.start));
            }
        }
    }
    for question in checked(parse_questions(bytes, "t.jsonl")).unwrap_or_default() {
        assert!(!question.row.question.trim().is_empty() && !question.row.context.trim().is_empty());
    }
    for pair in checked(parse_pairs(bytes, "t.jsonl")).unwrap_or_default() {
        assert!(pair.row.score.is_finite() && !pair.row.text.trim().is_empty() && !pair.row.pair.trim().is_empty());
    }
    for masked in checked(parse_masked(bytes, "t.jsonl")).unwrap_or_default() {
        assert!(!masked.row.text.trim().is_empty());
    }
}

/// The manifest of a bundle that has none of the files.
pub fn manifest(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    let Some(manifest) = checked(Manifest::parse(text)) else { return };
    let bundle = Bundle::of("/nowhere".into(), manifest);
    for entry in &bundle.manifest.files {
        checked(bundle.file(&entry.path));
    }
    for engine in &bundle.manifest.engines {
        checked(bundle.choose(Some(&engine.name)));
    }
}

/// An archive of a bundle, as it is and with the sums of its headers put right: else few changes get past them. A
/// refused archive is not searched in the folder, which the command line drops; beside the folder there must be nothing.
pub fn bundle_archive(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), resummed(bytes)] {
        let place = tempfile::tempdir().unwrap();
        let (file, dir) = (place.path().join("bundle.tar"), place.path().join("bundle"));
        std::fs::write(&file, bytes).unwrap();
        std::fs::create_dir(&dir).unwrap();
        if let Some((bundle, files)) = checked(bundle::archive::unpack(&file, &dir)) {
            assert_eq!(bundle.digests().unwrap().len(), files.len());
            bundle.verify().unwrap();
        }
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);
    }
}

/// A wheel of ONNX Runtime; and the record and the metadata of a sound one. The files that are taken are below
/// the bundle's folder and is all listed.
pub fn wheel(bytes: &[u8]) {
    const INFO: &str = "onnxruntime-1.32.0.dist-info";
    let library = [b"\x7fELF\x02\x01\x01", &[0; 9][..], &[3, 0, 62, 0], &[0; 44]].concat();
    let sound = |metadata: &[u8], tags: &[u8], record: Option<&[u8]>| {
        let (metadata_name, tags_name) = (format!("{INFO}/METADATA"), format!("{INFO}/WHEEL"));
        let files: [(&str, &[u8]); 5] = [
            ("onnxruntime/LICENSE", b"MIT"),
            ("onnxruntime/capi/libonnxruntime.so.1.32.0", &library),
            ("onnxruntime/capi/libonnxruntime_providers_shared.so", &library),
            (&metadata_name, metadata),
            (&tags_name, tags),
        ];
        let line = |(name, data): &(&str, &[u8])| {
            let digest = Base64UrlUnpadded::encode_string(&Sha256::digest(data));
            format!("{name},sha256={digest},{}\n", data.len())
        };
        let fitting: String = files.iter().map(line).collect();
        let name = format!("{INFO}/RECORD");
        let own = format!("{fitting}{name},,\n");
        archive(&[&files[..], &[(&name, record.unwrap_or(own.as_bytes()))]].concat())
    };
    let metadata = b"Metadata-Version: 2.4\nName: onnxruntime\nVersion: 1.32.0\nLicense: MIT\n";
    let tags = b"Wheel-Version: 1.0\nTag: cp312-cp312-manylinux_2_28_x86_64\n";
    let wheels =
        [bytes.to_vec(), sound(metadata, tags, Some(bytes)), sound(bytes, tags, None), sound(metadata, bytes, None)];
    for wheel in wheels {
        let place = tempfile::tempdir().unwrap();
        let (file, dir) = (place.path().join("onnxruntime-1.32.0-any.whl"), place.path().join("bundle"));
        std::fs::write(&file, wheel).unwrap();
        std::fs::create_dir(&dir).unwrap();
        let package = runtimes::packages(Runtime::Ort, Platform::LinuxX64)[0];
        if let Some(taken) = checked(runtimes::take(&Found { package, wheel: file }, &dir)) {
            assert_eq!((taken.files.len(), taken.notices.len()), (2, 1));
            assert!(taken.files.iter().chain(&taken.notices).all(|name| dir.join(name).is_file()));
        }
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);
        assert!(std::fs::read_dir(&dir).unwrap().all(|entry| entry.unwrap().file_name() == runtimes::RUNTIMES));
    }
}

/// A tar archive in which the sum of every header is right.
fn resummed(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (bytes.to_vec(), 0);
    while let Some(header) = out.get_mut(at..at + 512).filter(|header| header.iter().any(|byte| *byte != 0)) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).ok().and_then(|size| usize::from_str_radix(size, 8).ok());
        at += 512 + size.unwrap_or(0).next_multiple_of(512);
    }
    out
}

/// A signature's file, and the statement that is signed by it.
pub fn signature(bytes: &[u8]) {
    static KEY: LazyLock<PublicKey> = LazyLock::new(|| {
        let key = "-----BEGIN PUBLIC KEY-----\n\
                   MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEiVGOUKjOFGBcVfDSWaoegBLG0TDx\n\
                   sZ/MDpHZ9SccGJZO6cT3A8orctdUEl1IUkimZwKvWwOobg+kqlt+jwVBCg==\n\
                   -----END PUBLIC KEY-----\n";
        PublicKey::parse(key).unwrap()
    });
    let Some(text) = utf8(bytes) else { return };
    checked(signing::open(text, "model.sig", &KEY));
    checked(signing::read_statement(text, "the signed statement"));
}

/// The front matter of a README.
pub fn front_matter(bytes: &[u8]) {
    if let Some(licence) = utf8(bytes).and_then(licence::stated) {
        assert!(!licence.is_empty());
    }
}

/// Lets a tokenizer's library panic in the threads in which it is watched, where a fuzzer would count it as a crash.
pub fn let_watched_threads_panic() {
    let crash = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(kilnc::runtime::TOKENIZER_THREAD) {
            crash(panic);
        }
    }));
}

/// A zip archive of stored entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let size = (data.len() as u32).to_le_bytes();
        let sizes = [&crc32fast::hash(data).to_le_bytes()[..], &size, &size].concat();
        let name_len = (name.len() as u16).to_le_bytes();
        let header = (bytes.len() as u32).to_le_bytes();
        directory.extend([b"PK\x01\x02", &[0; 4][..], &[0; 8], &sizes, &name_len, &[0; 12], &header].concat());
        directory.extend(name.as_bytes());
        bytes.extend([b"PK\x03\x04", &[0; 2][..], &[0; 8], &sizes, &name_len, &[0; 2]].concat());
        bytes.extend([name.as_bytes(), data].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (start, size) = ((bytes.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    bytes.extend(directory);
    bytes.extend([b"PK\x05\x06", &[0; 4][..], &count, &count, &size, &start, &[0; 2]].concat());
    bytes
}
