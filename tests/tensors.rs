//! Names of tensors: those that a model's class shares, and those that a wrapper has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{copied, fixture, kilnc, names, place};
use kilnc::back::onnx;
use kilnc::build::{self, Model, Scheme, Source};
use kilnc::eval::Golden;
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::ir::Graph;
use kilnc::passes::{CutVocabulary, Manager};
use kilnc::precision::Precision;
use kilnc::runtime::{self, Elements, Engine, Options, Runtime};
use kilnc::target::Target;
use kilnc::verify::Verified;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// A tensor of 32-bit floats: its shape and its elements.
type Stored = (Vec<usize>, Vec<f32>);
type Tensors = BTreeMap<String, Stored>;

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let one = |(name, view): (String, TensorView)| (name, (view.shape().to_vec(), floats(view.data())));
    file.tensors().into_iter().filter(|(_, view)| view.dtype() == Dtype::F32).map(one).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let bytes: Vec<_> = tensors.iter().map(|(name, (shape, values))| (name, shape.clone(), bytes(values))).collect();
    let views =
        bytes.iter().map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn set(path: &Path, field: &str, value: Value) {
    let mut config = json_of(path);
    config[field] = value;
    fs::write(path, config.to_string()).unwrap();
}

/// Numbers that are no pattern, and the same for everyone.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// A masked language model of the fixtures, and its class's names of the shared tensors.
struct Shares {
    model: &'static str,
    embeddings: &'static str,
    decoder: &'static str,
    bias: &'static str,
    head_bias: Option<&'static str>,
    /// Whether transformers 4 has the head's bias under both names, rather than the projection's.
    head_first: bool,
}

const fn shares(
    model: &'static str,
    names: [&'static str; 3],
    head_bias: Option<&'static str>,
    head_first: bool,
) -> Shares {
    let [embeddings, decoder, bias] = names;
    Shares { model, embeddings, decoder, bias, head_bias, head_first }
}

/// Read off the classes of transformers 4.57.6 and 5.24.0.
const FAMILIES: [Shares; 9] = [
    shares(
        "albert/mlm",
        ["albert.embeddings.word_embeddings.weight", "predictions.decoder.weight", "predictions.decoder.bias"],
        Some("predictions.bias"),
        false,
    ),
    shares(
        "bert/mlm",
        ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
        Some("cls.predictions.bias"),
        true,
    ),
    shares(
        "camembert/mlm",
        ["roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight", "lm_head.decoder.bias"],
        Some("lm_head.bias"),
        false,
    ),
    shares(
        "deberta-v2/mlm",
        ["deberta.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
        Some("cls.predictions.bias"),
        true,
    ),
    shares(
        "distilbert/mlm",
        ["distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight", "vocab_projector.bias"],
        None,
        false,
    ),
    shares(
        "electra/mlm",
        ["electra.embeddings.word_embeddings.weight", "generator_lm_head.weight", "generator_lm_head.bias"],
        None,
        false,
    ),
    shares("modernbert/mlm", ["model.embeddings.tok_embeddings.weight", "decoder.weight", "decoder.bias"], None, false),
    shares(
        "mpnet/mlm",
        ["mpnet.embeddings.word_embeddings.weight", "lm_head.decoder.weight", "lm_head.decoder.bias"],
        Some("lm_head.bias"),
        true,
    ),
    shares(
        "roberta/mlm",
        ["roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight", "lm_head.decoder.bias"],
        Some("lm_head.bias"),
        false,
    ),
];

impl Shares {
    fn folder(&self) -> PathBuf {
        fixture("families").join(self.model)
    }

    fn golden(&self) -> PathBuf {
        self.folder().join("golden.safetensors")
    }

    /// A copy of the model.
    fn copied(&self) -> tempfile::TempDir {
        copied(&format!("families/{}", self.model))
    }

    fn tensors(&self) -> Tensors {
        read(&self.folder().join("model.safetensors"))
    }

    /// The projection to the vocabulary of a version of `transformers`, once it has loaded a folder: weight and bias. It
    /// ties them if the configuration does not forbid it; version 5 only where one is missing.
    fn loaded(&self, dir: &Path, version: u32) -> [Stored; 2] {
        let tensors = read(&dir.join("model.safetensors"));
        let tied = json_of(&dir.join("config.json"))["tie_word_embeddings"] != json!(false);
        let either = |one: &str, other: Option<&str>| tensors.get(one).or_else(|| tensors.get(other?)).cloned();
        let weight = match (version, tied) {
            (4, true) => tensors.get(self.embeddings).cloned(),
            (5, true) => either(self.decoder, Some(self.embeddings)),
            _ => tensors.get(self.decoder).cloned(),
        };
        let bias = match (version, self.head_bias) {
            (4, Some(head)) if self.head_first => tensors.get(head).cloned(),
            (5, Some(_)) if !tied => tensors.get(self.bias).cloned(),
            (_, head) => either(self.bias, head),
        };
        // Missing weights are initialised anew, the bias as zeros.
        let weight = weight.unwrap_or_else(|| panic!("{}: version {version} initialises the projection", self.model));
        let rows = weight.0[0];
        [weight, bias.unwrap_or((vec![rows], vec![0.0; rows]))]
    }
}

fn source(checkpoint: &Path, adapter: Option<&Path>) -> Source {
    let adapters = adapter.map(|dir| AdapterSource { dir: dir.to_owned(), scale: 1.0 });
    Source { checkpoint: checkpoint.to_owned(), adapters: adapters.into_iter().collect(), combine: None, task: None }
}

fn engine(model: &Model) -> Box<dyn Engine> {
    engine_of(model.graph())
}

fn engine_of(graph: &Verified<Graph>) -> Box<dyn Engine> {
    let scheme = Scheme::new(&Target::OrtCpu, Precision::Fp32);
    let graph = build::compile(graph, &scheme, &mut Manager::default()).unwrap();
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&graph, &path, &|_| {}).unwrap();
    runtime::open(Runtime::Ort, &path, Options { threads: 1 }).unwrap()
}

/// The logits of a model on the inputs of a golden file, and the warnings.
fn logits(source: &Source, golden: &Path) -> (Vec<f32>, Vec<String>) {
    let model = build::load(source).unwrap();
    let outputs = engine(&model).run(Golden::read(golden).unwrap().inputs()).unwrap();
    match &outputs[0].1.elements {
        Elements::F32(values) => (values.clone(), build::warnings(&model)),
        other => panic!("{other:?}"),
    }
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_shared_tensor_is_found_under_any_of_its_names() {
    for family in &FAMILIES {
        let copy = family.copied();
        let path = copy.path().join("model.safetensors");
        let mut tensors = family.tensors();
        let embeddings = tensors.remove(family.embeddings).unwrap();
        tensors.remove(family.decoder);
        tensors.insert(family.decoder.to_owned(), embeddings);
        if let Some(head) = family.head_bias {
            let bias = tensors.remove(head).or(tensors.remove(family.bias)).unwrap();
            tensors.insert(family.bias.to_owned(), bias);
        }
        write(&path, &tensors);
        let model = build::load(&source(copy.path(), None)).unwrap();
        assert_eq!(build::warnings(&model), [""; 0], "{}", family.model);
        let parity = Golden::read(&family.golden()).unwrap().compare(&mut *engine(&model)).unwrap();
        assert!(parity.max_abs <= 1e-4, "{}: {parity:?}", family.model);
        // A model without the head finds its embeddings there, too.
        let bare = Source { task: Some(kilnc::task::Task::FeatureExtraction), ..source(copy.path(), None) };
        build::load(&bare).unwrap();
    }
}

#[test]
fn an_untied_projection_replaces_nothing_else() {
    let family = &FAMILIES[1];
    let copy = family.copied();
    set(&copy.path().join("config.json"), "tie_word_embeddings", json!(false));
    let error = build::load(&source(copy.path(), None)).err().unwrap().to_string();
    assert!(error.starts_with("tensor `cls.predictions.decoder.weight` is missing"), "{error}");
    assert!(error.contains("in config.json: tie_word_embeddings"), "{error}");
    let mut tensors = family.tensors();
    let embeddings = tensors.remove(family.embeddings).unwrap();
    tensors.insert(family.decoder.to_owned(), embeddings);
    write(&copy.path().join("model.safetensors"), &tensors);
    let error = build::load(&source(copy.path(), None)).err().unwrap().to_string();
    assert!(error.starts_with("tensor `bert.embeddings.word_embeddings.weight` is missing"), "{error}");
}

#[test]
fn one_tensor_with_two_values_is_named() {
    let family = &FAMILIES[1];
    let copy = family.copied();
    let mut tensors = family.tensors();
    let (shape, values) = tensors[family.embeddings].clone();
    tensors.insert(family.decoder.to_owned(), (shape, values.iter().map(|value| value + 0.5).collect()));
    let (shape, values) = tensors[family.head_bias.unwrap()].clone();
    tensors.insert(family.bias.to_owned(), (shape, values.iter().map(|value| value - 0.5).collect()));
    write(&copy.path().join("model.safetensors"), &tensors);
    let (_, said) = logits(&source(copy.path(), None), &family.golden());
    let differ = |one: &str, other: &str| {
        format!(
            "`{one}` and `{other}` differ, and models of this kind share them: `{other}` is taken, as transformers 5 does; \
             transformers 4 may take the other"
        )
    };
    let [embeddings, bias] =
        [differ(family.embeddings, family.decoder), differ(family.head_bias.unwrap(), family.bias)];
    assert_eq!(said[..2], [embeddings, bias]);
}

/// An adapter that saves the projection to the vocabulary whole.
fn with_decoder(family: &Shares, dir: &Path) {
    let (shape, _) = &family.tensors()[family.embeddings];
    let module = family.decoder.strip_suffix(".weight").unwrap();
    let name = |name: &str| format!("base_model.model.{name}");
    let mut tensors = Tensors::new();
    tensors.insert(name(family.decoder), (shape.clone(), numbers(1, shape.iter().product())));
    tensors.insert(name(family.bias), (vec![shape[0]], numbers(2, shape[0])));
    fs::create_dir_all(dir).unwrap();
    write(&dir.join("adapter_model.safetensors"), &tensors);
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "modules_to_save": [module]});
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
}

/// LoRA on the word embeddings, and the embeddings that it makes.
fn on_embeddings(family: &Shares, dir: &Path) -> Stored {
    let (shape, base) = &family.tensors()[family.embeddings];
    let (rows, width, rank) = (shape[0], shape[1], 2);
    let module = format!("base_model.model.{}", family.embeddings.strip_suffix(".weight").unwrap());
    let (a, b) = (numbers(3, rank * rows), numbers(4, width * rank));
    let mut tensors = Tensors::new();
    tensors.insert(format!("{module}.lora_embedding_A"), (vec![rank, rows], a.clone()));
    tensors.insert(format!("{module}.lora_embedding_B"), (vec![width, rank], b.clone()));
    fs::create_dir_all(dir).unwrap();
    write(&dir.join("adapter_model.safetensors"), &tensors);
    let last = family.embeddings.strip_suffix(".weight").unwrap().rsplit('.').next().unwrap();
    let config = json!({"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": [last]});
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let change = |row: usize, column: usize| {
        (0..rank).map(|i| a[i * rows + row] * b[column * rank + i]).sum::<f32>() * 4.0 / rank as f32
    };
    let places = (0..rows).flat_map(|row| (0..width).map(move |column| (row, column)));
    (shape.clone(), base.iter().zip(places).map(|(base, (row, column))| base + change(row, column)).collect())
}

/// The folder reads as one model by either version of `transformers`: that which `expected` gives.
fn reads_alike(family: &Shares, merged: &Path, expected: &[f32]) {
    let [four, five] = [4, 5].map(|version| family.loaded(merged, version));
    assert_eq!(four, five, "{}", family.model);
    let tensors = read(&merged.join("model.safetensors"));
    if let (Some(bias), Some(head)) = (tensors.get(family.bias), family.head_bias.and_then(|name| tensors.get(name))) {
        assert_eq!(bias, head, "{}", family.model);
    }
    // The model as a version would have it after loading, under names that leave no choice.
    let alone = place();
    for file in names(merged).iter().filter(|name| *name != "model.safetensors") {
        fs::copy(merged.join(file), alone.path().join(file)).unwrap();
    }
    let [weight, bias] = four;
    let mut tensors = tensors;
    tensors.insert(family.decoder.to_owned(), weight);
    for name in [Some(family.bias), family.head_bias].into_iter().flatten() {
        if tensors.contains_key(name) {
            tensors.insert(name.to_owned(), bias.clone());
        }
    }
    write(&alone.path().join("model.safetensors"), &tensors);
    set(&alone.path().join("config.json"), "tie_word_embeddings", json!(false));
    let (found, _) = logits(&source(alone.path(), None), &family.golden());
    assert!(difference(&found, expected) <= 1e-5, "{}: {}", family.model, difference(&found, expected));
    let (found, said) = logits(&source(merged, None), &family.golden());
    assert!(difference(&found, expected) <= 1e-5, "{}: {}", family.model, difference(&found, expected));
    assert_eq!(said, [""; 0], "{}", family.model);
}

#[test]
fn an_adapters_projection_is_the_same_for_every_version() {
    for family in &FAMILIES {
        let place = place();
        let (adapter, merged) = (place.path().join("adapter"), place.path().join("merged"));
        with_decoder(family, &adapter);
        let (base, _) = logits(&source(&family.folder(), None), &family.golden());
        let (expected, said) = logits(&source(&family.folder(), Some(&adapter)), &family.golden());
        assert!(difference(&base, &expected) > 0.1, "{}", family.model);
        assert_eq!(said, [""; 0], "{}", family.model);
        kilnc(arguments!["merge", family.folder(), "--adapter", adapter, "-o", merged]).expect(0);
        assert_eq!(json_of(&merged.join("config.json"))["tie_word_embeddings"], false, "{}", family.model);
        reads_alike(family, &merged, &expected);
    }
}

/// As in PEFT, the look-up changes and the projection, which shared its weights, does not.
#[test]
fn lora_on_tied_embeddings_parts_them() {
    for family in &FAMILIES {
        let place = place();
        let (adapter, merged) = (place.path().join("adapter"), place.path().join("merged"));
        let embeddings = on_embeddings(family, &adapter);
        let untied = family.copied();
        let mut tensors = family.tensors();
        let base = tensors.insert(family.embeddings.to_owned(), embeddings).unwrap();
        tensors.insert(family.decoder.to_owned(), base);
        write(&untied.path().join("model.safetensors"), &tensors);
        set(&untied.path().join("config.json"), "tie_word_embeddings", json!(false));
        let (expected, _) = logits(&source(untied.path(), None), &family.golden());
        let (found, said) = logits(&source(&family.folder(), Some(&adapter)), &family.golden());
        assert!(difference(&found, &expected) <= 1e-4, "{}: {}", family.model, difference(&found, &expected));
        assert_eq!(said, [""; 0], "{}", family.model);
        kilnc(arguments!["merge", family.folder(), "--adapter", adapter, "-o", merged]).expect(0);
        assert_eq!(json_of(&merged.join("config.json"))["tie_word_embeddings"], false, "{}", family.model);
        reads_alike(family, &merged, &found);
        // What all adapters of an engine share cannot be untied for one of them.
        let said = kilnc(arguments![
            "export",
            family.folder(),
            "--adapter",
            adapter,
            "--adapter-as-input",
            "-o",
            place.path().join("model.onnx")
        ])
        .expect(2);
        assert!(said.stderr.contains("which cannot be an input"), "{}: {}", family.model, said.stderr);
    }
}

/// Both tables lose the rows of tokens that are cut.
#[test]
fn a_vocabulary_is_cut_in_embeddings_and_projection_that_were_untied() {
    let family = &FAMILIES[1];
    let place = place();
    on_embeddings(family, place.path());
    let model = build::load(&source(&family.folder(), Some(place.path()))).unwrap();
    let golden = Golden::read(&family.golden()).unwrap();
    let mut inputs = golden.inputs().clone();
    let (_, ids) = inputs.iter_mut().find(|(name, _)| name == "input_ids").unwrap();
    let Elements::I64(ids) = &mut ids.elements else { panic!("no token ids") };
    let kept: BTreeSet<i64> = ids.iter().copied().chain([1, 9, 33]).collect();
    let kept: Vec<i64> = kept.into_iter().collect();
    let rows = family.tensors()[family.embeddings].0[0];
    assert!(kept.len() < rows, "nothing is cut");
    let run = |graph: &Verified<Graph>, inputs| match engine_of(graph).run(inputs).unwrap().remove(0).1.elements {
        Elements::F32(values) => values,
        other => panic!("{other:?}"),
    };
    let whole = run(model.graph(), golden.inputs());
    ids.iter_mut().for_each(|id| *id = kept.iter().position(|kept| kept == id).unwrap() as i64);
    let numbers: Vec<u32> = kept.iter().map(|id| *id as u32).collect();
    let cut = Manager::default().run(model.graph(), &CutVocabulary { kept: &numbers, scores: true }).unwrap();
    let expected: Vec<f32> = whole.chunks(rows).flat_map(|row| kept.iter().map(|id| row[*id as usize])).collect();
    assert!(difference(&run(&cut, &inputs), &expected) <= 1e-5);
}

/// DeBERTa's other head has no projection of its own: it reads the changed embeddings.
#[test]
fn a_class_without_a_projection_keeps_the_bases_embeddings_for_it() {
    let family = Shares {
        model: "deberta-v2/mlm-lm-predictions",
        decoder: "lm_predictions.lm_head.weight",
        bias: "lm_predictions.lm_head.bias",
        head_bias: None,
        ..FAMILIES[3]
    };
    let place = place();
    let adapter = place.path().join("adapter");
    let (_, embeddings) = on_embeddings(&family, &adapter);
    let (base, _) = logits(&source(&family.folder(), None), &family.golden());
    let (found, said) = logits(&source(&family.folder(), Some(&adapter)), &family.golden());
    assert!(difference(&base, &found) > 0.01);
    assert_eq!(said, [""; 0]);
    // Were the projection changed with the look-up, this would be the result.
    let whole = family.copied();
    let mut tensors = family.tensors();
    tensors.get_mut(family.embeddings).unwrap().1 = embeddings;
    write(&whole.path().join("model.safetensors"), &tensors);
    let (both, _) = logits(&source(whole.path(), None), &family.golden());
    assert!(difference(&both, &found) > 0.01);
    let ran = kilnc(arguments!["merge", family.folder(), "--adapter", adapter, "-o", place.path().join("merged")]);
    let stderr = ran.expect(2).stderr;
    assert!(stderr.contains("a checkpoint has one tensor for the two"), "{stderr}");
    assert_eq!(names(place.path()), ["adapter"]);
}

/// Rows of tokens and biases are trained under every name.
#[test]
fn a_tensor_trained_under_one_name_is_changed_under_the_other() {
    let family = &FAMILIES[1];
    let (head, copy, place) = (family.head_bias.unwrap(), family.copied(), place());
    let mut tensors = family.tensors();
    let (embeddings, bias) = (tensors[family.embeddings].clone(), tensors[head].clone());
    tensors.insert(family.decoder.to_owned(), embeddings);
    tensors.insert(family.bias.to_owned(), bias);
    write(&copy.path().join("model.safetensors"), &tensors);
    let adapter = place.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    let width = tensors[family.embeddings].0[1];
    let rows = "base_model.model.bert.embeddings.word_embeddings.token_adapter.trainable_tokens_delta".to_owned();
    let trained = [
        (rows, (vec![2, width], numbers(5, 2 * width))),
        (format!("base_model.model.{head}"), (vec![tensors[head].0[0]], numbers(6, tensors[head].0[0]))),
    ];
    write(&adapter.join("adapter_model.safetensors"), &trained.into());
    let config =
        json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "trainable_token_indices": {"word_embeddings": [6, 30]}});
    fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    // In a file that has each under one name there is nothing to follow.
    let (expected, _) = logits(&source(&family.folder(), Some(&adapter)), &family.golden());
    let (found, _) = logits(&source(copy.path(), Some(&adapter)), &family.golden());
    assert!(difference(&found, &expected) <= 1e-6, "{}", difference(&found, &expected));
}

/// The tensors of a fixture by other names, its graph's outputs then, and the warnings.
fn renamed(model: &str, name: impl Fn(&str) -> String) -> (kilnc::Result<f64>, Vec<String>) {
    let copy = copied(&format!("families/{model}"));
    let path = copy.path().join("model.safetensors");
    let tensors = read(&path).into_iter().map(|(old, tensor)| (name(&old), tensor)).collect();
    write(&path, &tensors);
    let loaded = build::load(&source(copy.path(), None));
    let said = loaded.as_ref().map(build::warnings).unwrap_or_default();
    let golden = Golden::read(&copy.path().join("golden.safetensors")).unwrap();
    (loaded.map(|model| golden.compare(&mut *engine(&model)).unwrap().max_abs), said)
}

#[test]
fn a_wrappers_prefix_is_removed_with_a_warning() {
    let removed = |prefix: &str| format!("`{prefix}` was taken out of the tensors' names: a wrapper had put it there");
    for model in ["bert/seqcls", "bert/base", "modernbert/mlm", "xlnet/seqcls", "distilbert/qa", "albert/mlm"] {
        for prefix in ["_orig_mod.", "module.", "_forward_module.", "module._orig_mod.", "module.module."] {
            let (found, said) = renamed(model, |name| format!("{prefix}{name}"));
            assert!(found.as_ref().is_ok_and(|difference| *difference <= 1e-4), "{prefix}{model}: {found:?}");
            let first = if prefix == "module._orig_mod." { "_orig_mod.module." } else { prefix };
            assert_eq!(said[0], removed(first), "{model}");
        }
    }
    // A part of the model was compiled, or each layer wrapped.
    let (found, said) = renamed("bert/seqcls", |name| name.replace("bert.", "bert._orig_mod."));
    assert!(found.is_ok_and(|difference| difference <= 1e-4));
    assert_eq!(said[0], removed("_orig_mod."));
    let (found, _) = renamed("bert/seqcls", |name| name.replace(".attention.", "._fsdp_wrapped_module.attention."));
    assert!(found.is_ok_and(|difference| difference <= 1e-4));
}

#[test]
fn a_model_saved_as_a_part_of_another_is_extracted() {
    for model in ["bert/seqcls", "roberta/mlm", "electra/tokcls", "modernbert/mlm", "modernbert/seqcls"] {
        for prefix in ["model.", "net.encoder.", "base_model.model."] {
            let (found, said) = renamed(model, |name| format!("{prefix}{name}"));
            assert!(found.as_ref().is_ok_and(|difference| *difference <= 1e-4), "{prefix}{model}: {found:?}");
            assert!(said[0].starts_with(&format!("`{prefix}` was taken out")), "{said:?}");
        }
    }
}

#[test]
fn a_common_prefix_is_named_where_it_stays() {
    let refusal = |model: &str, name: &dyn Fn(&str) -> String| renamed(model, name).0.unwrap_err().to_string();
    assert_eq!(
        refusal("bert/base", &|name| format!("encoder.{name}")),
        "tensor `bert.embeddings.word_embeddings.weight` is missing\n  in model.safetensors\n\n\
         hint: every name there begins with `encoder.`, and none of this model does"
    );
    // A name is offered only if it is in the file.
    let other = |name: &str| match name.strip_prefix("bert.") {
        Some(rest) => format!("backbone.{rest}"),
        None => name.to_owned(),
    };
    assert_eq!(
        refusal("bert/seqcls", &other),
        "tensor `bert.embeddings.word_embeddings.weight` is missing\n  in model.safetensors\n\n\
         hint: the nearest name there is `backbone.embeddings.word_embeddings.weight`"
    );
    let bare = |name: &str| name.replace("word_embeddings", "wte");
    assert_eq!(
        refusal("bert/base", &bare),
        "tensor `bert.embeddings.word_embeddings.weight` is missing\n  in model.safetensors\n\n\
         hint: the weights are of another model than config.json says"
    );
    let slip = |name: &str| name.replace("word_embeddings", "word_embedings");
    assert!(
        refusal("bert/base", &slip).ends_with("hint: the nearest name there is `embeddings.word_embedings.weight`"),
        "{}",
        refusal("bert/base", &slip)
    );
    let twice = copied("families/bert/seqcls");
    let path = twice.path().join("model.safetensors");
    let mut tensors = read(&path);
    let one = tensors["classifier.bias"].clone();
    tensors.insert("_orig_mod.classifier.bias".to_owned(), one);
    write(&path, &tensors);
    let error = build::load(&source(twice.path(), None)).err().unwrap().to_string();
    assert_eq!(
        error,
        "duplicate tensor `classifier.bias`, also under the name that a wrapper gave it\n  in model.safetensors"
    );
}
