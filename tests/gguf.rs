//! Files of llama.cpp: the same models as in the Hub's layout, the floats of every type of blocks, and the tokens that llama.cpp
//! makes of texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{copy_folder, kilnc, place, repository};
use crate::decoders::{decoders, differences, generates_pytorchs_tokens, load};
use kilnc::back;
use kilnc::build::{self, Model, Scheme};
use kilnc::front::source;
use kilnc::ir::{Op, ValueId, Weight};
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::TextEncoder;
use kilnc::target::Target;

fn file(name: &str) -> PathBuf {
    repository("tests/fixtures/gguf").join(name)
}

/// The files that were made of a checkpoint of a decoder, with its folder.
fn converted() -> Vec<(PathBuf, String)> {
    let names = crate::common::names(&file(""));
    let of = |name: &String| {
        let (family, variant) = name.strip_suffix(".gguf")?.split_once("-lm")?;
        Some((file(name), format!("{family}/lm{variant}")))
    };
    names.iter().filter_map(of).collect()
}

/// What a file cannot say of a checkpoint: fields of its configuration, as llama.cpp has them in its code.
fn as_llama_cpp_has_it(name: &str) -> Option<Value> {
    match name.split('/').next()? {
        "gemma2" | "gemma3_text" => Some(json!({"query_pre_attn_scalar": 6})),
        "smollm3" => Some(json!({"no_rope_layers": [1, 1, 1]})),
        _ => None,
    }
}

/// Files whose angles were computed by the converter, in another order of steps.
const ROUNDED: [&str; 1] = ["llama/lm-llama3"];

/// The bytes of a model for ONNX Runtime.
fn onnx(model: &Model) -> Vec<u8> {
    let place = place();
    let path = place.path().join("model.onnx");
    let scheme = Scheme::new(&Target::OrtCpu, Precision::Fp32);
    let graph = build::compile(model.graph(), &scheme, &mut Manager::default()).unwrap();
    back::onnx::write(&graph, &path, &|_| {}).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_converted_checkpoint_is_the_same_model_to_the_byte() {
    let mut seen = 0;
    for (path, name) in converted().into_iter().filter(|(_, name)| !ROUNDED.contains(&name.as_str())) {
        let place = place();
        copy_folder(&decoders(&name), place.path());
        if let Some(fields) = as_llama_cpp_has_it(&name) {
            let config = place.path().join("config.json");
            let mut all: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
            all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            std::fs::write(&config, all.to_string()).unwrap();
        }
        let [of_file, of_folder] = [path, place.path().to_owned()].map(|source| load(source, &[], None).unwrap());
        assert!(onnx(&of_file) == onnx(&of_folder), "{name}");
        assert_eq!(build::warnings(&of_file), build::warnings(&of_folder), "{name}");
        seen += 1;
    }
    assert!(seen >= 25, "only {seen} files");
}

#[test]
fn a_converted_checkpoint_gives_pytorchs_numbers_and_tokens() {
    let mut wrong = Vec::new();
    for name in ["llama-lm-llama3", "llama-lm-tied", "qwen3-lm", "gemma-lm", "phi3-lm-window", "gpt2-lm-untied"] {
        let (family, variant) = name.split_once('-').unwrap();
        let folder = decoders(&format!("{family}/{variant}"));
        let model = load(file(&format!("{name}.gguf")), &[], None).unwrap();
        wrong.extend(differences(&model, &folder));
        assert_eq!(generates_pytorchs_tokens(&model, &folder), 3, "{name}");
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_type_of_blocks_has_the_floats_of_gguf() {
    let checkpoint = source::open(&file("blocks.gguf")).unwrap();
    let expected = kilnc::safetensors::read(&file("blocks.safetensors")).unwrap();
    let types = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16"];
    assert_eq!(expected.len(), types.len());
    for (i, ty) in types.into_iter().enumerate() {
        let found = checkpoint.state.get(&format!("model.layers.{i}.mlp.up_proj.weight")).unwrap().weight.to_f32s();
        let expected = &expected.iter().find(|(name, _)| name == ty).unwrap().1;
        assert_eq!(found.unwrap(), expected.to_f32s().unwrap(), "{ty}");
    }
}

#[test]
fn texts_have_the_tokens_of_llama_cpp() {
    let text = std::fs::read_to_string(file("tokens.json")).unwrap();
    let mut stored: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let texts: Vec<String> = serde_json::from_value(stored.remove("texts").unwrap()).unwrap();
    assert_eq!((stored.len(), texts.len()), (11, 24));
    let mut wrong = Vec::new();
    for (name, expected) in stored {
        let expected: Vec<Vec<u32>> = serde_json::from_value(expected).unwrap();
        let checkpoint = source::open(&file(&name)).unwrap();
        let encoder = TextEncoder::parse(checkpoint.encoder.text("tokenizer.json").unwrap(), 512).unwrap();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let found = encoder.plain_ids(&texts).unwrap();
        for ((text, found), expected) in texts.iter().zip(found).zip(expected) {
            if (found == expected) == OTHERWISE.contains(&(&name, text)) {
                wrong.push(format!("{name}: {text:?}: {found:?}, llama.cpp {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Texts for which llama.cpp does otherwise than the tokenizers that its pre-tokenizers are named after: those compose texts first.
const OTHERWISE: [(&str, &str); 2] =
    [("bpe-command-r.gguf", "e\u{301} combining"), ("bpe-qwen2.gguf", "e\u{301} combining")];

#[test]
fn blocks_of_a_file_become_those_of_an_engine_without_rounding() {
    let model = load(file("q8_0.gguf"), &[], None).unwrap();
    let scheme = Scheme::new(&Target::OrtCpu, Precision::Int8Weights);
    let graph = build::compile(model.graph(), &scheme, &mut Manager::default()).unwrap();
    let of = |operand: Option<ValueId>| graph.weight(operand.unwrap()).unwrap().clone();
    let floats = |weight: &Weight| weight.to_f32s().unwrap().into_owned();
    let trained = source::open(&file("q8_0.gguf")).unwrap().state;
    let mut seen = 0;
    for (_, node) in graph.nodes().filter(|(_, node)| matches!(node.op, Op::MatMulNBits { .. })) {
        let (values, scales) = (of(node.operand(1)), floats(&of(node.operand(2))));
        let codes = values.evaluate().unwrap().as_bytes().to_vec();
        let found: Vec<f32> = codes.iter().enumerate().map(|(i, q)| scales[i / 32] * (f32::from(*q) - 128.0)).collect();
        let is_it = |name: &str| values.source_name().is_some_and(|source| source == name);
        let names = trained.iter().filter(|(_, tensor)| tensor.weight.source_name().is_some_and(is_it));
        assert_eq!(names.map(|(_, tensor)| floats(&tensor.weight)).collect::<Vec<_>>(), [found]);
        seen += 1;
    }
    assert_eq!(seen, 7);
}

#[test]
fn commands_take_a_file_as_they_take_a_folder() {
    let place = place();
    let at = |name: &str| place.path().join(name);
    let spm = file("spm.gguf");
    let said = kilnc(arguments!["inspect", &spm]).expect(0).stdout;
    assert!(said.starts_with("checkpoint of a llama (LlamaForCausalLM): "), "{said}");
    assert!(said.contains("model.layers.0.self_attn.q_proj.weight"), "{said}");
    let blocks = kilnc(arguments!["inspect", file("blocks.gguf")]).expect(0).stdout;
    assert!(blocks.contains("q4_k[3, 512]"), "{blocks}");

    for engine in [arguments!["run", &spm, "--prompt", "x"].to_vec(), arguments!["bench", &spm].to_vec()] {
        let said = kilnc(engine).expect(2).stderr;
        assert!(said.contains("is a model, and has no engines yet\n\nhint: kilnc build "), "{said}");
    }
    kilnc(arguments!["export", &spm, "-o", at("model.onnx")]).expect(0);
    kilnc(arguments!["build", &spm, "--target", "ort-cpu", "-o", at("model.kiln")]).expect(0);
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(at("model.kiln/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["sources"][0]["path"], "spm.gguf");
    assert_eq!(manifest["generation"]["eos"], json!([2]));
    let chat = at("chat.json");
    std::fs::write(&chat, r#"[{"role": "user", "content": "the kiln"}]"#).unwrap();
    for arguments in [arguments!["--prompt", "the kiln"], arguments!["--chat", &chat]] {
        let run = arguments!["run", at("model.kiln"), "--max-new-tokens", "4", "--json"];
        let said = kilnc(run.into_iter().chain(arguments)).expect(0).json();
        assert!(!said[0]["tokens"].as_array().unwrap().is_empty(), "{said}");
    }
    kilnc(arguments!["bundle", "export", at("model.kiln"), "--layout", "hub", "-o", at("hub")]).expect(0);
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    {
        assert!(at("hub").join(name).exists(), "{name}");
    }
}

#[test]
fn a_file_becomes_a_checkpoint_that_is_the_same_model() {
    let place = place();
    let merged = place.path().join("merged");
    kilnc(arguments!["merge", file("llama-lm.gguf"), "-o", &merged]).expect(0);
    let [of_file, of_folder] = [file("llama-lm.gguf"), merged].map(|source| load(source, &[], None).unwrap());
    assert!(onnx(&of_file) == onnx(&of_folder));
}

#[test]
fn a_damaged_file_ends_with_code_2_and_writes_nothing() {
    let place = place();
    let (path, out) = (place.path().join("model.gguf"), place.path().join("out.kiln"));
    let whole = std::fs::read(file("llama-lm.gguf")).unwrap();
    for (end, expected) in [
        (0, "the file does not begin with `GGUF`"),
        (100, "21 tensors are announced, more than 100 bytes can hold"),
        (1000, "are announced at byte"),
        (whole.len() - 1, "ends past the"),
    ] {
        std::fs::write(&path, &whole[..end]).unwrap();
        for command in [arguments!["build", &path, "-o", &out].to_vec(), arguments!["inspect", &path].to_vec()] {
            let ran = kilnc(command).expect(2);
            assert!(ran.stderr.contains(expected) && ran.stderr.contains("in model.gguf"), "{}", ran.stderr);
        }
        assert!(!out.exists());
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(!Path::new(&out).exists());
    kilnc(arguments!["build", &path, "-o", &out]).expect(2);
}
