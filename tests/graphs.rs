//! The graph of a small BERT at each stage of the compile, as text to review, and what other families add.
//! `UPDATE_SNAPSHOTS=1` writes it anew.

use std::fs;
use std::path::Path;

use kilnc::back;
use kilnc::calibrate::Ranges;
use kilnc::front::hub::arch;
use kilnc::front::hub::checkpoint::Checkpoint;
use kilnc::ir::weight::{Blocks, Int8Range};
use kilnc::ir::{DType, Graph, Op, text};
use kilnc::passes::{
    ActivationType, FuseQkv, Half, Manager, Pass, QuantizeDynamic, QuantizeStatic, QuantizeWeights, Stored,
};
use kilnc::target::Target;
use kilnc::verify::{Verified, verify};

#[test]
fn bert_is_built_as_in_the_paper() {
    check("built", &built());
}

#[test]
fn fuse_qkv_leaves_one_projection_per_attention() {
    check("fuse-qkv", &after(&[&FuseQkv]));
}

#[test]
fn quantize_dynamic_leaves_the_head_in_full_precision() {
    check("quantize-dynamic", &after(&[&FuseQkv, &QuantizeDynamic::default()]));
}

#[test]
fn quantize_static_takes_the_ranges_of_the_layers_inputs() {
    let ranges = ranges();
    let fixed = |activations| QuantizeStatic {
        ranges: &ranges,
        calibration: None,
        activations,
        keep: &[],
        range: Int8Range::Full,
    };
    let quantized = |activations| after(&[&FuseQkv, &fixed(activations)]);
    check("quantize-static", &quantized(ActivationType::S8));
    for target in ["ort-cpu", "openvino", "tract"] {
        let lowered = back::lower(&quantized(ActivationType::U8), &target.parse().unwrap()).unwrap();
        check(&format!("{target}.int8-static"), &lowered);
    }
}

#[test]
fn weights_and_tables_alone_are_cut_into_blocks_or_channels() {
    let blocks =
        |bits, zero_points| QuantizeWeights { blocks: Some(Blocks { bits, size: 32, zero_points }), keep: &[] };
    check("quantize-weights", &after(&[&FuseQkv, &blocks(4, true)]));
    check("ort-cpu.int8-weights", &lowered(&[&FuseQkv, &blocks(8, false)], "ort-cpu"));
    check("tract.int8-weights", &lowered(&[&FuseQkv, &QuantizeWeights { blocks: None, keep: &[] }], "tract"));
}

#[test]
fn halves_are_stored_for_targets_that_compute_in_full() {
    check("stored", &after(&[&FuseQkv, &Stored::to(DType::F16)]));
}

/// A range for the input of every linear layer.
fn ranges() -> Ranges {
    let graph = after(&[&FuseQkv]);
    let layers = graph.nodes().filter(|(_, node)| node.op == Op::Linear);
    layers.map(|(_, node)| (graph.value(node.inputs[0].unwrap()).name.clone(), (-2.55, 2.55))).collect()
}

#[test]
fn half_keeps_norms_and_outputs_in_full_precision() {
    check("half", &after(&[&FuseQkv, &Half::to(DType::F16)]));
}

#[test]
fn onnx_runtime_gets_its_own_kernels() {
    check("ort-cpu.fp32", &lowered(&[&FuseQkv], "ort-cpu"));
    check("ort-cpu.int8", &lowered(&[&FuseQkv, &QuantizeDynamic::default()], "ort-cpu"));
}

#[test]
fn tract_gets_plain_operators() {
    check("tract.fp32", &lowered(&[&FuseQkv], "tract"));
    check("tract.int8", &lowered(&[&FuseQkv, &QuantizeDynamic::default()], "tract"));
}

#[test]
fn browsers_get_plain_attention_and_8_bits_of_onnx_runtime() {
    check("web.int8", &lowered(&[&QuantizeDynamic::default()], "web"));
}

#[test]
fn tensorrt_gets_half_precision_and_a_boolean_mask() {
    check("tensorrt-rtx-sm75.fp16", &lowered(&[&FuseQkv, &Half::to(DType::F16)], "tensorrt-rtx:sm75"));
}

#[test]
fn deberta_adds_scores_by_position_and_a_convolution() {
    let conv = built_of("families/deberta-v2/seqcls-conv", &[]);
    check("deberta-v2.built", &conv);
    let fused = Manager::default().run(&built_of("families/deberta-v2/base-types", &[]), &FuseQkv).unwrap();
    check("deberta-v2.tract.fp32", &back::lower(&fused, &Target::Tract).unwrap());
}

#[test]
fn xlnet_adds_scores_by_distance_and_token_type() {
    let built = built_of("families/xlnet/seqcls", &["transformer.mask_emb"]);
    check("xlnet.built", &built);
    check("xlnet.fuse-qkv", &Manager::default().run(&built, &FuseQkv).unwrap());
}

#[test]
fn gpt2_keeps_keys_and_values() {
    let built = built_of("decoders/gpt2/lm", &[]);
    check("gpt2.built", &built);
    check("gpt2.ort-cpu.fp32", &back::lower(&built, &Target::OrtCpu).unwrap());
    check("openai-gpt.built", &built_of("decoders/openai-gpt/lm", &[]));
    check("gpt2.seqcls.built", &built_of("decoders/gpt2/seqcls", &[]));
}

#[test]
fn llamas_heads_share_keys_and_are_turned() {
    let built = built_of("decoders/llama/lm", &[]);
    check("llama.built", &built);
    check("llama.ort-cpu.fp32", &back::lower(&built, &Target::OrtCpu).unwrap());
    check("gemma3.built", &built_of("decoders/gemma3_text/lm", &[]));
}

#[test]
fn bloom_counts_positions_and_biases_scores_by_them() {
    check("bloom.built", &built_of("decoders/bloom/lm", &[]));
}

#[test]
fn lfm2_keeps_the_inputs_of_its_convolutions() {
    let built = built_of("decoders/lfm2/lm", &[]);
    check("lfm2.built", &built);
    check("lfm2.ort-cpu.fp32", &back::lower(&built, &Target::OrtCpu).unwrap());
}

#[test]
fn experts_multiply_the_rows_that_chose_them() {
    let built = built_of("decoders/gpt_oss/lm-one", &[]);
    check("gpt-oss.built", &built);
    check("gpt-oss.tract.fp32", &back::lower(&built, &Target::Tract).unwrap());
    check("qwen3-moe.built", &built_of("decoders/qwen3_moe/lm", &[]));
}

#[test]
fn angles_follow_the_length_of_a_text() {
    check("phi3-longer.built", &built_of("decoders/phi3/lm-longer", &[]));
    let dynamic = built_of("decoders/llama/seqcls-dynamic", &[]);
    check("llama-dynamic.ort-cpu.fp32", &back::lower(&dynamic, &Target::OrtCpu).unwrap());
}

fn built() -> Verified<Graph> {
    built_of("tiny-bert", &[])
}

/// The graph of a fixture that holds these tensors too many.
fn built_of(fixture: &str, unused: &[&str]) -> Verified<Graph> {
    let checkpoint = Checkpoint::open(&root().join("fixtures").join(fixture)).unwrap();
    let state = arch::canonical_state(&checkpoint).unwrap();
    let built = arch::build(&checkpoint, &state, None).unwrap();
    assert_eq!(built.unused, unused);
    verify(built.graph).unwrap()
}

fn after(passes: &[&dyn Pass]) -> Verified<Graph> {
    let mut manager = Manager::default();
    passes.iter().fold(built(), |graph, pass| manager.run(&graph, *pass).unwrap())
}

fn lowered(passes: &[&dyn Pass], target: &str) -> Verified<Graph> {
    back::lower(&after(passes), &target.parse().unwrap()).unwrap()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
}

/// Compares a graph with its snapshot, and with what its text parses to.
fn check(name: &str, graph: &Graph) {
    let found = graph.to_string();
    assert_eq!(text::parse(&found).unwrap().to_string(), found);
    let path = root().join(format!("graphs/{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &found).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    let lines = expected.lines().map(Some).chain(std::iter::repeat(None));
    let changed = found.lines().zip(lines).position(|(found, expected)| Some(found) != expected);
    let line = changed.unwrap_or(found.lines().count());
    assert!(
        found == expected,
        "tests/graphs/{name}.txt differs from line {} on; UPDATE_SNAPSHOTS=1 writes it anew\n  expected {:?}\n  found    {:?}",
        line + 1,
        expected.lines().nth(line).unwrap_or("the end"),
        found.lines().nth(line).unwrap_or("the end"),
    );
}
