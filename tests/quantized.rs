//! Quantized checkpoints as they are published: every method gives PyTorch's numbers over the decoded weights, blocks stay
//! as they are where a number format has the same, and adapters are merged in FP32.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{kilnc, names, place, repository};
use crate::decoders::{BOUND, differences, floats, generates_pytorchs_tokens, load, outputs, port};
use kilnc::build::{self, Scheme};
use kilnc::eval::Golden;
use kilnc::evaluate::Arithmetic;
use kilnc::front::hub::checkpoint::Checkpoint;
use kilnc::ir::weight::{BlockPart, Blocks};
use kilnc::passes::Manager;
use kilnc::ports::PortKind;
use kilnc::precision::Precision;
use kilnc::safetensors;
use kilnc::target::Target;

fn quantized(name: &str) -> PathBuf {
    repository("tests/fixtures/quantized").join(name)
}

/// The folders with a model and its answers.
fn models() -> Vec<String> {
    let mut found = names(&quantized(""));
    found.retain(|name| quantized(name).join("greedy.json").is_file());
    found
}

#[test]
fn every_method_gives_pytorchs_numbers_and_tokens() {
    let (mut wrong, mut engines) = (Vec::new(), 0);
    let all = models();
    for name in &all {
        let folder = quantized(name);
        let model = load(folder.clone(), &[], None).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(model.unused.is_empty(), "{name}: {:?}", model.unused);
        wrong.extend(differences(&model, &folder));
        engines += generates_pytorchs_tokens(&model, &folder);
    }
    assert!(all.len() >= 21, "{all:?}");
    assert_eq!(engines, 3 * all.len());
    assert!(wrong.is_empty(), "{} differ by more than {BOUND}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn methods_that_quantize_activations_are_named_and_no_other_field_is_unknown() {
    let mut found = BTreeMap::new();
    for name in models() {
        let model = load(quantized(&name), &[], None).unwrap();
        let short = |line: &String| line.replace("the method quantizes activations with ", "").replace(ENGINES, "");
        let lines: Vec<String> = model.warnings.iter().map(short).collect();
        if !lines.is_empty() {
            found.insert(name, lines);
        }
    }
    const ENGINES: &str = " where its own kernels run; an engine has them in floating point";
    let expected = [
        ("bnb-int8", "dynamic scales, but for outliers,"),
        ("compressed-float", "dynamic scales"),
        ("compressed-int8", "dynamic scales"),
        ("fbgemm-fp8", "dynamic scales"),
        ("fp8-block", "dynamic scales"),
        ("fp8-static", "static scales"),
    ];
    let expected = expected.map(|(name, line)| (name.to_owned(), vec![line.to_owned()]));
    assert_eq!(found, BTreeMap::from(expected));
}

#[test]
fn experts_in_mxfp4_are_what_transformers_makes_of_them() {
    let state = Checkpoint::open(&quantized("mxfp4")).unwrap().state;
    let expected = safetensors::read(&quantized("mxfp4").join("expected.safetensors")).unwrap();
    assert_eq!(state.iter().count(), expected.len());
    for (name, expected) in expected {
        let found = &state.get(&name).unwrap().weight;
        assert_eq!(found.shape(), expected.shape(), "{name}");
        assert_eq!(found.to_f32s().unwrap(), expected.to_f32s().unwrap(), "{name}");
    }
}

/// The largest difference of any logit of an int4 graph, in exact arithmetic, from PyTorch's.
fn apart_in_int4(name: &str) -> f32 {
    let model = load(quantized(name), &[], None).unwrap();
    let scheme = Scheme::new(&Target::OrtCpu, Precision::Int4);
    let graph = build::compile(model.graph(), &scheme, &mut Manager::default()).unwrap();
    let mut engine = build::open_evaluator(&graph, Arithmetic::default()).unwrap();
    let golden = Golden::read(&quantized(name).join("golden-unpadded.safetensors")).unwrap();
    let expected = floats(port(golden.outputs(), PortKind::Logits));
    let found = outputs(&model, &mut *engine, golden.inputs()).remove(0);
    floats(port(&found, PortKind::Logits)).iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn int4_keeps_the_blocks_of_the_file() {
    let how = Blocks { bits: 4, size: 32, zero_points: true };
    let mut kept = Vec::new();
    for name in models() {
        let path = quantized(&name).join("blocks.safetensors");
        if !path.is_file() {
            continue;
        }
        let state = Checkpoint::open(&quantized(&name)).unwrap().state;
        for (tensor, expected) in safetensors::read(&path).unwrap() {
            let (layer, part) = tensor.rsplit_once('.').unwrap();
            let weight = &state.get(&format!("{layer}.weight")).unwrap().weight;
            let part = weight.in_blocks(how, BlockPart::from_name(part).unwrap()).unwrap();
            assert_eq!(part.shape(), expected.shape(), "{name}: {tensor}");
            assert!(part.evaluate().unwrap().as_bytes() == expected.evaluate().unwrap().as_bytes(), "{name}: {tensor}");
        }
        // Nothing was rounded in the whole model either: its head stays in FP32.
        let apart = apart_in_int4(&name);
        assert!(apart <= BOUND, "{name}: {apart}");
        kept.push(name);
    }
    assert_eq!(kept, ["awq", "awq-gemv", "compressed-pack", "compressed-pack-zero", "gptq", "gptq-v2"]);
    // Where columns are in another order, or a code has other bits, they are rounded.
    for name in ["gptq-act-order", "gptq-3-bits", "bnb-nf4"] {
        let apart = apart_in_int4(name);
        assert!(apart > 10.0 * BOUND, "{name}: {apart}");
    }
}

#[test]
fn int8_keeps_integers_of_8_bits() {
    let how = Blocks { bits: 8, size: 32, zero_points: false };
    for (name, kept) in [("gptq-8-bits", true), ("bnb-int8", true), ("compressed-int8", false)] {
        let state = Checkpoint::open(&quantized(name)).unwrap().state;
        let weight = &state.get("model.layers.0.mlp.down_proj.weight").unwrap().weight;
        let part = |part| weight.in_blocks(how, part).unwrap();
        let (codes, scales) = (part(BlockPart::Values), part(BlockPart::Scales).to_f32s().unwrap().into_owned());
        let codes = codes.evaluate().unwrap();
        let value = |(i, code): (usize, &u8)| (f32::from(*code) - 128.0) * scales[i / 32];
        let found: Vec<f32> = codes.as_bytes().iter().enumerate().map(value).collect();
        assert_eq!(found == weight.to_f32s().unwrap()[..], kept, "{name}");
    }
}

#[test]
fn adapters_as_inputs_leave_packed_weights_as_they_are() {
    let place = place();
    let path = place.path().join("model.onnx");
    let arguments = arguments!["export", quantized("gptq"), "--adapter", quantized("gptq-lora"), "--adapter-as-input"];
    let said = kilnc(arguments.into_iter().chain(arguments!["-o", &path])).expect(0).stderr;
    assert!(!said.contains("merged in FP32"), "{said}");
}

#[test]
fn an_adapter_is_merged_in_fp32_and_its_cost_is_said() {
    let adapter = quantized("gptq-lora");
    let model = load(quantized("gptq"), std::slice::from_ref(&adapter), None).unwrap();
    assert_eq!(
        model.warnings,
        [
            "adapters are merged in FP32 into 3 weights that gptq had packed: 0.0 MB become 0.0 MB, and a smaller number \
          format rounds them again"
        ]
    );
    let wrong = differences(&model, &adapter);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn merged(base: &str, more: &[std::ffi::OsString], out: &Path) -> String {
    let mut all: Vec<std::ffi::OsString> = arguments!["merge", quantized(base), "-o", out].into();
    all.extend_from_slice(more);
    kilnc(all).expect(0).stderr
}

#[test]
fn a_merged_checkpoint_is_a_float_checkpoint() {
    let place = place();
    let (out, adapter) = (place.path().join("merged"), quantized("gptq-lora"));
    let said = merged("gptq", &arguments!["--adapter", &adapter], &out);
    let line = "7 weights that gptq had packed in 0.0 MB are written in f32, and `quantization_config` is left out";
    assert!(said.contains(line), "{said}");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
    assert!(config.get("quantization_config").is_none() && config["model_type"] == "llama");
    let model = load(out, &[], None).unwrap();
    assert!(model.warnings.is_empty() && model.checkpoint.quantized.is_none());
    let wrong = differences(&model, &adapter);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// GPT-2's linear layers lie the other way round in float files, and not in quantized ones.
#[test]
fn a_merged_conv1d_lies_as_the_float_files_have_it() {
    let place = place();
    let out = place.path().join("merged");
    merged("gptq-gpt2", &[], &out);
    let model = load(out.clone(), &[], None).unwrap();
    let shape = |name: &str| Checkpoint::open(&out).unwrap().state.get(name).unwrap().weight.shape().to_vec();
    assert_eq!(shape("transformer.h.0.attn.c_attn.weight"), [32, 96]);
    let wrong = differences(&model, &quantized("gptq-gpt2"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn inspect_says_how_weights_are_packed() {
    let said = kilnc(arguments!["inspect", quantized("gptq-3-bits")]).expect(0).stdout;
    let line = said.lines().find(|line| line.contains("q_proj.weight")).unwrap();
    assert!(line.ends_with("  gptq_3_32[64, 64]"), "{line}");
    let said = kilnc(arguments!["inspect", quantized("fp8-block"), "--json"]).expect(0).json();
    let packed = std::fs::metadata(quantized("fp8-block").join("model.safetensors")).unwrap().len();
    let bytes = said["bytes"].as_u64().unwrap();
    assert!(bytes < packed && bytes + 4096 > packed, "{bytes} of {packed}");
}
