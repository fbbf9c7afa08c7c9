//! `kilnc prune` and `[prune]`: cut parts are removed, the rest predicts as it must, and refusals leave nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, TEXTS, fixture, jsonl, kilnc, names, place, repository};
use kilnc::back::onnx;
use kilnc::build::{self, Scheme, Source};
use kilnc::eval::Golden;
use kilnc::ir::{Graph, Role, Weight};
use kilnc::observer::Observer;
use kilnc::passes::{ChannelCut, Manager, Pass, Prunable, PruneChannels, ReplaceWeights};
use kilnc::precision::Precision;
use kilnc::prune::{Request, Sparsity, Spec};
use kilnc::runtime::{self, Elements, Named, Options, Runtime};
use kilnc::target::Target;
use kilnc::verify::{Verified, verify};

/// Runs `kilnc prune` on the small classifier, without timing.
fn prune(arguments: &[OsString]) -> Ran {
    let mut all: Vec<OsString> = arguments!["prune", fixture("tiny-bert"), "--rounds", "0"].into();
    all.extend_from_slice(arguments);
    kilnc(all)
}

fn outputs(graph: &Verified<Graph>, target: &Target, inputs: &Named) -> Vec<f32> {
    let lowered = build::compile(graph, &Scheme::new(target, Precision::Fp32), &mut Manager::default()).unwrap();
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&lowered, &path, &|_| {}).unwrap();
    let mut engine = runtime::open(Runtime::of(target), &path, Options { threads: 1 }).unwrap();
    let mut values = Vec::new();
    for (_, tensor) in engine.run(inputs).unwrap() {
        let Elements::F32(elements) = tensor.elements else { panic!("outputs are floats") };
        values.extend(elements);
    }
    values
}

/// Every second unit of every block goes: once really, once by zeros in what reads it.
fn halves(graph: &Graph) -> (BTreeMap<Role, ChannelCut>, BTreeMap<String, Weight>) {
    let (mut cuts, mut zeroed) = (BTreeMap::new(), BTreeMap::new());
    for (_, node) in graph.nodes() {
        let Some(block) = Prunable::of(graph, node) else { continue };
        let block = block.unwrap_or_else(|why| panic!("{}: {why}", graph.node_name(node)));
        let name = graph.value(node.operand(1).unwrap()).name.clone();
        let weight = graph.weight(node.operand(1).unwrap()).unwrap();
        let n = weight.shape()[1];
        let kept: Vec<usize> = (0..block.units).step_by(2).collect();
        let at = block.channels(&kept);
        let mut values = weight.to_f32s().unwrap().into_owned();
        values.chunks_mut(n).enumerate().filter(|(row, _)| !at.contains(row)).for_each(|(_, row)| row.fill(0.0));
        zeroed.insert(name, Weight::f32s(weight.shape().to_vec(), &values).unwrap());
        let bias = node.operand(2).map(|id| graph.weight(id).unwrap().clone());
        cuts.insert(block.role, ChannelCut { weight: weight.take(0, at).unwrap(), bias, kept });
    }
    (cuts, zeroed)
}

/// Families whose layers share their weights: zeros in one are zeros in all.
const SHARED: [&str; 1] = ["albert"];

#[test]
fn in_every_family_a_cut_graph_equals_one_with_zeros() {
    let mut observed = 0;
    for family in fs::read_dir(repository("tests/fixtures/families")).unwrap() {
        let family = family.unwrap().path();
        let name = family.file_name().unwrap().to_str().unwrap().to_owned();
        let heads = fs::read_dir(&family).into_iter().flatten().map(|head| head.unwrap().path());
        let mut heads: Vec<PathBuf> = heads.filter(|head| head.join("golden.safetensors").is_file()).collect();
        heads.sort();
        // Heads of one family have the same layers.
        let Some(checkpoint) = heads.first().filter(|_| !SHARED.contains(&name.as_str())) else { continue };
        let source = Source { checkpoint: checkpoint.clone(), adapters: Vec::new(), combine: None, task: None };
        let model = build::load(&source).unwrap();
        let (cuts, zeroed) = halves(model.graph());
        assert!(!cuts.is_empty(), "{name} has no blocks");
        let (cut, report) = PruneChannels { cuts: &cuts }.run(model.graph()).unwrap();
        assert_eq!((report.changed, report.left), (cuts.len(), Vec::new()), "{name}");
        let cut = verify(cut).unwrap();
        let zeroed = verify(ReplaceWeights { weights: &zeroed }.run(model.graph()).unwrap().0).unwrap();
        let golden = Golden::read(&checkpoint.join("golden.safetensors")).unwrap();
        for target in [Target::OrtCpu, Target::Tract] {
            let (found, expected) =
                (outputs(&cut, &target, golden.inputs()), outputs(&zeroed, &target, golden.inputs()));
            assert_eq!(found.len(), expected.len());
            let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < 2e-5, "{name} on {target}: {difference}");
        }
        observed += 1;
    }
    assert!(observed >= 8, "{observed} families");
}

#[test]
fn heads_and_neurons_are_removed_and_the_report_lists_them() {
    let place = place();
    let (texts, out, report) = (jsonl(place.path()), place.path().join("p.kiln"), place.path().join("report"));
    let found = prune(&arguments![
        "--heads",
        "0.5",
        "--ffn",
        "0.5",
        "--calibration",
        texts,
        "--report",
        report,
        "-o",
        out,
        "--json"
    ])
    .expect(0)
    .json();
    let blocks = found["pruning"]["blocks"].as_array().unwrap();
    let total = |what: &str, key: &str| -> u64 {
        let mine = blocks.iter().filter(|block| block["name"].as_str().unwrap().starts_with(what));
        mine.map(|block| block[key].as_u64().unwrap()).sum()
    };
    assert_eq!([total("attention", "before"), total("attention", "after")], [8, 4], "{found}");
    assert_eq!(total("ffn", "after") * 2, total("ffn", "before"), "{found}");
    assert!(found["pruning"]["parameters_after"].as_u64() < found["pruning"]["parameters_before"].as_u64());
    assert_eq!(names(&report), ["prune.json", "prune.md", "prune.svg"]);
    let plot = fs::read_to_string(report.join("prune.svg")).unwrap();
    assert_eq!(plot.matches("fill=\"#c8642b\"").count() + plot.matches("fill=\"#33658a\"").count(), blocks.len());
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["pruning"]["requested"]["heads"], 0.5);
    kilnc(arguments!["run", out, "--text", "the game is fast"]).expect(0);
}

#[test]
fn an_output_is_not_written_without_its_report() {
    let place = place();
    let (texts, out, report) = (jsonl(place.path()), place.path().join("p.kiln"), place.path().join("report"));
    let old = arguments!["--heads", "0.25", "--calibration", texts, "--target", "tract", "-o", out];
    prune(&old).expect(0);
    let before = fs::read(out.join("manifest.json")).unwrap();
    let staged = place.path().join(".report.kilnc-stage");
    let failed = std::thread::scope(|scope| {
        let new = [&old[2..], &arguments!["--heads", "0.5", "--report", report]].concat();
        let pruning = scope.spawn(move || prune(&new));
        // The report's folder disappears during the work.
        while !staged.is_dir() {
            assert!(!pruning.is_finished(), "nothing was staged");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        fs::remove_dir(&staged).unwrap();
        pruning.join().unwrap()
    });
    let said = failed.expect(2).stderr;
    assert!(said.contains("error: writing ") && said.contains("prune.json"), "{said}");
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), before);
    assert_eq!(names(place.path()), ["p.kiln", "texts.jsonl"]);
}

#[test]
fn all_heads_may_go_and_layers_too() {
    let place = place();
    let texts = jsonl(place.path());
    for (i, cut) in [&["--heads", "1"][..], &["--heads", "1", "--ffn", "1"], &["--layers", "1"], &["--drop-layer", "0"]]
        .into_iter()
        .enumerate()
    {
        let out = place.path().join(format!("{i}.kiln"));
        let mut arguments: Vec<OsString> = cut.iter().map(OsString::from).collect();
        arguments.extend::<[OsString; 5]>(arguments!["--calibration", texts, "-o", out, "--json"]);
        let found = prune(&arguments).expect(0).json();
        let dropped = found["pruning"]["dropped_layers"].as_array().map_or(0, Vec::len);
        assert_eq!(dropped, usize::from(i >= 2), "{found}");
        kilnc(arguments!["run", out, "--text", "the game is fast"]).expect(0);
    }
}

#[test]
fn the_pattern_of_zeros_survives_eight_bits_and_is_read_back() {
    let place = place();
    let texts = jsonl(place.path());
    for scheme in ["fp32", "int8", "int8-fast", "int8-static"] {
        let out = place.path().join(format!("{scheme}.kiln"));
        prune(&arguments!["--sparsity", "2:4", "--scheme", scheme, "--calibration", texts, "-o", out]).expect(0);
        let manifest: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(out.join("manifest.json")).unwrap()).unwrap();
        let zeros = &manifest["engines"][0]["zeros"];
        // The pooler and the classifier keep all their weights.
        let count = |key: &str| zeros[key].as_u64().unwrap();
        assert_eq!(zeros["pattern"], "2:4", "{scheme}: {zeros}");
        assert!(count("holding") >= 8 && count("holding") == count("matrices") - 2, "{scheme}: {zeros}");
    }
    let out = place.path().join("full.kiln");
    let full =
        arguments!["--sparsity", "2:4", "--scheme", "int8", "--reduce-range=false", "--calibration", texts, "-o", out];
    prune(&full).expect(0);
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"name\": \"ort-cpu-int8-full\""), "{manifest}");
}

struct Silent;
impl Observer for Silent {}

#[test]
fn weights_that_layers_share_are_left_with_the_reason() {
    let checkpoint = repository("tests/fixtures/families/albert/seqcls");
    let golden = Golden::read(&checkpoint.join("golden.safetensors")).unwrap();
    let model = build::load(&Source { checkpoint, adapters: Vec::new(), combine: None, task: None }).unwrap();
    let (place, inputs) = (place(), [golden.inputs().clone()]);
    let spec = Spec { sparsity: Some(Sparsity::Share(0.5)), ..Spec::default() };
    let request =
        Request { graph: model.graph(), inputs: &inputs, scratch: place.path(), observer: &Silent, spec: &spec };
    let (_, report) = kilnc::prune::prune(&request).unwrap();
    let summary = |left: &String| left.ends_with("other layers have the same weights");
    assert!(!report.left.is_empty() && report.left.iter().all(summary), "{report:?}");
    assert!(report.sparse.is_empty(), "{report:?}");
}

#[test]
fn a_model_of_which_nothing_is_cut_is_refused() {
    let model = crate::decoders::load(fixture("decoders/qwen3_moe/lm"), &[], None).unwrap();
    let golden = Golden::read(&fixture("decoders/qwen3_moe/lm/golden-unpadded.safetensors")).unwrap();
    let (place, inputs) = (place(), [golden.inputs().clone()]);
    let spec = Spec { ffn: 0.25, ..Spec::default() };
    let request =
        Request { graph: model.graph(), inputs: &inputs, scratch: place.path(), observer: &Silent, spec: &spec };
    let said = kilnc::prune::prune(&request).err().unwrap();
    let expected = "the model has no heads, neurons or products that are cut; ";
    assert!(said.message().starts_with(expected) && said.exit_code() == 2, "{said}");
}

#[test]
fn a_cut_vocabulary_keeps_the_predictions_of_its_texts() {
    let place = place();
    let (texts, out, whole) = (jsonl(place.path()), place.path().join("cut.kiln"), place.path().join("whole.kiln"));
    let found = prune(&arguments!["--vocab", texts, "-o", out, "--json"]).expect(0).json();
    let rows = |key: &str| found["vocabulary"][key].as_u64().unwrap();
    assert!(rows("rows") < rows("rows_before"), "{found}");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "ort-cpu", "-o", whole]).expect(0);
    assert!(
        fs::metadata(out.join("tokenizer.json")).unwrap().len()
            < fs::metadata(whole.join("tokenizer.json")).unwrap().len()
    );
    for (text, _) in TEXTS {
        let answer = |bundle: &Path| kilnc(arguments!["run", bundle, "--text", text, "--json"]).expect(0).json();
        let scores = |bundle: &Path| answer(bundle).to_string().replace(&*bundle.to_string_lossy(), "");
        assert_eq!(scores(&out), scores(&whole), "{text}");
    }
    assert_eq!(names(&out).iter().filter(|name| *name == "cut").count(), 0);
    // The Hub's files have the size of the cut vocabulary.
    let config = fs::read_to_string(out.join("hub/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["vocab_size"].as_u64(), Some(rows("rows")), "{config}");
}

#[test]
fn a_recipe_cuts_for_all_its_engines() {
    let place = place();
    jsonl(place.path());
    let recipe = place.path().join("r.toml");
    let text = "calibration = \"texts.jsonl\"\n[prune]\nheads = 0.25\nffn = 0.25\n[[engine]]\ntarget = \"ort-cpu\"\n\
                [[engine]]\ntarget = \"ort-cpu\"\nprecision = \"int8\"\n[[engine]]\ntarget = \"tract\"\n";
    fs::write(&recipe, text).unwrap();
    let out = place.path().join("b.kiln");
    kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out]).expect(0);
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("manifest.json")).unwrap()).unwrap();
    for engine in manifest["engines"].as_array().unwrap() {
        assert_eq!(engine["gates"][0]["against"], "the trained model, ort-cpu fp32", "{engine}");
    }
    // A model that was cut cannot be taken for the trained one.
    fs::write(
        &recipe,
        text.replace(
            "[prune]",
            &format!(
                "golden = {{ file = {:?}, max_abs = 1e-4 }}\n[prune]",
                fixture("tiny-bert").join("golden.safetensors")
            ),
        ),
    )
    .unwrap();
    let error =
        kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", place.path().join("c")]).expect(2);
    assert!(error.stderr.contains("a pruned engine cannot give the outputs of the trained model"), "{}", error.stderr);
}

#[test]
fn cuts_that_are_impossible_are_refused_and_nothing_is_written() {
    let place = place();
    let texts = jsonl(place.path());
    let empty = place.path().join("empty.txt");
    fs::write(&empty, "\n\n").unwrap();
    let out = place.path().join("out.kiln");
    let cases: [(Vec<OsString>, &str); 8] = [
        (
            arguments!["--heads", "1.5", "--calibration", texts].into(),
            "heads = 1.5: the share that goes is from 0 to 1",
        ),
        (arguments!["--ffn=-0.1", "--calibration", texts].into(), "ffn = -0.1: the share that goes is from 0 to 1"),
        (arguments!["--heads", "0.5"].into(), "pruning is calibrated on texts of the task, and there are none"),
        (arguments!["--calibration", texts].into(), "nothing is to go"),
        (
            arguments!["--drop-layer", "7", "--calibration", texts].into(),
            "there is no layer 7 to drop: the model has 2",
        ),
        (arguments!["--layers", "9", "--calibration", texts].into(), "layers = 9, and the model has 2"),
        (arguments!["--sparsity", "1", "--calibration", texts].into(), "the share of zeros is above 0 and below 1"),
        (arguments!["--vocab", empty].into(), "empty.txt"),
    ];
    for (mut arguments, message) in cases {
        arguments.extend::<[OsString; 2]>(arguments!["-o", out]);
        let error = prune(&arguments).expect(2);
        assert!(error.stderr.contains(message), "{}", error.stderr);
        assert_eq!(names(place.path()), ["empty.txt", "texts.jsonl"], "{}", error.stderr);
    }
}

#[test]
fn a_loss_that_is_too_large_is_a_gate() {
    let place = place();
    let (texts, out) = (jsonl(place.path()), place.path().join("out.kiln"));
    let bounds =
        arguments!["--heads", "1", "--ffn", "1", "--gate", "cosine=0.9999999", "--calibration", texts, "-o", out];
    let error = prune(&bounds).expect(3);
    assert!(error.stderr.contains("a gate was missed"), "{}", error.stderr);
    assert_eq!(names(place.path()), ["texts.jsonl"]);
}
