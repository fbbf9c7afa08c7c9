//! The one comparison of engines: every output counts for gates and for `tune`, steps go on with an engine's own state, and
//! tokens are generated as they are run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::common::{Half, change, children, copied, fixture, kilnc, place};
use crate::decoders::load;
use kilnc::back;
use kilnc::build::{self, Scheme};
use kilnc::eval::{Beginnings, Compared, Example, Greedy, Reference, Workload};
use kilnc::front::hub::load::Model;
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::generate::{self, DecoderLimits};
use kilnc::runtime::session::{LastStep, prefill};
use kilnc::runtime::{self, Classes, Engine, Options, Runtime, TextEncoder};
use kilnc::target::Target;
use serde_json::Value;

const LIMITS: DecoderLimits = DecoderLimits { positions: Some(64), long: None, pad: 0 };

fn texts() -> PathBuf {
    fixture("decoders/texts.jsonl")
}

fn tuned(checkpoint: &Path, texts: &Path, out: &Path) -> Value {
    let tune = arguments!["tune", checkpoint, "--calibration", texts, "--max-drop", "1", "--rounds", "1", "-o", out];
    let more = arguments!["--shape", "1x8", "--quiet"];
    kilnc(tune.into_iter().chain(more)).expect(0);
    serde_json::from_slice(&std::fs::read(out.join("tune.json")).unwrap()).unwrap()
}

/// The engines in 8 bits of which no layer is in FP32.
fn int8(tuned: &Value) -> &Value {
    let points = tuned["points"].as_array().unwrap();
    points.iter().find(|point| point["precision"] == "int8" && point["fp32_layers"] == 0).unwrap()
}

/// The first output is the same whatever the layers do, so all that 8 bits change is in the second.
#[test]
fn tune_looks_at_every_output() {
    let model = copied("answers/bert/qa");
    change(model.path(), "qa_outputs.weight", Half::First, |_| 0.0);
    let place = place();
    let lines = ["the game is fast", "a mail server for the web", "print it"].map(|text| {
        let pair = "An editor for music scores that reads and writes files.";
        format!("{{\"text\": {text:?}, \"pair\": {pair:?}}}\n")
    });
    let texts = place.path().join("texts.jsonl");
    std::fs::write(&texts, lines.concat()).unwrap();
    let tuned = tuned(model.path(), &texts, &place.path().join("tuned"));
    assert!(int8(&tuned)["rms"].as_f64().unwrap() > 0.0, "{tuned}");
    for layer in tuned["targets"][0]["layers"].as_array().unwrap() {
        assert!(layer["sensitivity"].as_f64().unwrap() > 0.0, "{layer}");
    }
}

/// `tune` works on models that generate, and an engine that is built agrees as the search has found.
#[test]
fn decoders_are_tuned_and_agree_as_the_gates_of_a_build_say() {
    for family in ["gpt2", "openai-gpt"] {
        let (place, checkpoint) = (place(), fixture("decoders").join(family).join("lm"));
        let out = place.path().join("tuned");
        let tuned = tuned(&checkpoint, &texts(), &out);
        let bundle = place.path().join("model.kiln");
        let build =
            arguments!["build", checkpoint, "--target", "ort-cpu", "--quantize", "int8", "--calibration", texts()];
        let built = kilnc(build.into_iter().chain(arguments!["-o", bundle, "--quiet", "--json"])).expect(0).json();
        let gate = &built["engines"][1]["gates"][0];
        let of = |measure: &str| -> Vec<f64> {
            let checks = gate["checks"].as_array().unwrap().iter();
            checks.filter(|check| check["measure"] == measure).map(|check| check["found"].as_f64().unwrap()).collect()
        };
        assert_eq!(int8(&tuned)["agreement"].as_f64(), of("agreement").into_iter().reduce(f64::min), "{gate}");
        assert_eq!(of("greedy").len(), 1, "{gate}");
        let recipe = arguments!["build", checkpoint, "--recipe", out.join("recipe.toml"), "-o", bundle, "--quiet"];
        kilnc(recipe).expect(0);
    }
}

#[test]
fn a_build_compares_the_tokens_that_engines_generate() {
    for target in ["ort-cpu", "tract"] {
        let (place, checkpoint) = (place(), fixture("decoders/gpt2/lm"));
        let bundle = place.path().join("model.kiln");
        let build = |more: &[OsString]| {
            let mut all = arguments!["build", checkpoint, "--target", target, "-o", bundle].to_vec();
            all.extend_from_slice(more);
            kilnc(all)
        };
        let built = build(&arguments!["--json"]).expect(0).json();
        let gate = &built["engines"][0]["gates"][0];
        let greedy: Greedy = serde_json::from_value(gate["greedy"].clone()).unwrap();
        assert_eq!((greedy.texts, greedy.equal), (8, greedy.tokens), "{gate}");
        assert!(greedy.tokens > 0 && greedy.tokens <= 64, "{gate}");
        let check = gate["checks"].as_array().unwrap().iter().find(|check| check["measure"] == "greedy").unwrap();
        assert_eq!((&check["found"], &check["bound"]), (&1.0.into(), &1.0.into()), "{gate}");
        let inspected = kilnc(arguments!["inspect", bundle]).expect(0).stdout;
        assert!(inspected.contains("greedy 1 (≥ 1)"), "{inspected}");
    }
    let place = place();
    let build = arguments![
        "build",
        fixture("tiny-bert"),
        "--target",
        "ort-cpu",
        "--quantize",
        "int8",
        "--gate",
        "greedy=0.9",
        "-o"
    ];
    let said = kilnc(build.into_iter().chain([place.path().join("out").into()])).expect(2).stderr;
    assert!(said.contains("a bound on `greedy` means nothing for text-classification"), "{said}");
}

/// A model as FP32 files, and what compares it.
struct Compares {
    place: tempfile::TempDir,
    encoder: TextEncoder,
    examples: Vec<Example>,
}

impl Compares {
    fn new(model: &Model) -> Compares {
        let encoder = TextEncoder::parse(model.tokenizer.text().unwrap().to_owned(), 64).unwrap();
        let text = std::fs::read_to_string(texts()).unwrap();
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
        let examples = text.lines().map(|text| Example::unlabelled(&line(text))).collect();
        Compares { place: place(), encoder, examples }
    }

    fn file(&self, name: &str, model: &Model, target: &Target) -> PathBuf {
        let graph =
            build::compile(model.graph(), &Scheme::new(target, Precision::Fp32), &mut Manager::default()).unwrap();
        let path = self.place.path().join(name);
        back::onnx::write(&graph, &path, &|_| {}).unwrap();
        path
    }
}

fn open(file: &Path, runtime: Runtime) -> Box<dyn Engine> {
    runtime::open_isolated(runtime, file, Options::default(), &[]).unwrap()
}

#[test]
fn another_decoder_generates_other_tokens_and_its_caches_differ() {
    children();
    let (model, other) = (load(fixture("decoders/gpt2/lm"), &[], None).unwrap(), copied("decoders/gpt2/lm"));
    change(other.path(), "h.1.mlp.c_proj.weight", Half::Second, |x| -x);
    let other = load(other.path().to_owned(), &[], None).unwrap();
    let of = Compares::new(&model);
    let (ours, theirs) = (of.file("ours.onnx", &model, &Target::Tract), of.file("theirs.onnx", &other, &Target::Tract));
    let classes = Classes::default();
    let workload = Workload::new(&of.encoder, &classes, &of.examples, false).unwrap();
    let mut reference = Reference::new("ours", &workload, || Ok(open(&ours, Runtime::Tract)));
    let mut compare = |file: &Path, batch| -> Compared {
        reference.compare(&mut *open(file, Runtime::Tract), batch, &|| {}).unwrap()
    };
    let same = compare(&ours, 3);
    assert!(same.change() < 1e-4 && same.agreement() == Some(1.0), "{same:?}");
    let differs = compare(&theirs, 3);
    let names: Vec<&str> = differs.outputs.iter().map(|of| of.output.as_str()).collect();
    assert_eq!(names, ["logits", "present.*"]);
    assert!(differs.outputs.iter().all(|of| of.rms > 0.01), "{differs:?}");
    assert_eq!(differs.lost(), differs.agreement().map(|agreement| 1.0 - agreement));

    let beginnings = Beginnings::of(&of.encoder, &of.examples, LIMITS.positions).unwrap().unwrap();
    let tokens = |file: &Path, batch| {
        let mut decoder = generate::open_isolated(Runtime::Tract, file, Options::default(), LIMITS).unwrap();
        beginnings.continued(&mut *decoder, batch).unwrap()
    };
    let expected = tokens(&ours, 1);
    assert_eq!(beginnings.compare(&expected, &tokens(&ours, 3), &mut reference).unwrap().share(), 1.0);
    let equal = beginnings.compare(&expected, &expected, &mut reference).unwrap();
    assert_eq!(equal, Greedy { texts: 4, tokens: 32, equal: 32, ties: 0 });
    let found = beginnings.compare(&expected, &tokens(&theirs, 1), &mut reference).unwrap();
    assert!(found.equal < found.tokens && found.share() < 1.0, "{found:?}");
}

/// The state of a run stays in the engine: the last token of a text needs no cache from outside.
#[test]
fn an_engine_goes_on_with_the_state_of_its_last_run() {
    children();
    let model = load(fixture("decoders/gpt2/lm"), &[], None).unwrap();
    let of = Compares::new(&model);
    for (target, runtime) in [(Target::OrtCpu, Runtime::Ort), (Target::Tract, Runtime::Tract)] {
        let mut engine = open(&of.file("model.onnx", &model, &target), runtime);
        let text = of.encoder.encode(&[&of.examples[0]]).unwrap();
        let inputs = prefill(engine.inputs(), &text).unwrap();
        let whole = engine.run(&inputs).unwrap();
        let step = LastStep::of(&inputs).unwrap().unwrap();
        engine.run(&step.before).unwrap();
        let last = engine.resume(&step.last).unwrap();
        assert_eq!(
            last.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            whole.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
        let floats =
            |named: &runtime::Named, at: usize| -> Vec<f32> { named[at].1.rows().unwrap().last().unwrap().to_vec() };
        for at in 0..whole.len() {
            let (a, b) = (floats(&whole, at), floats(&last, at));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4), "{runtime}: {}", whole[at].0);
        }
        // The state goes on once more: the caches are one longer.
        let next = vec![last_of(&step.last, "input_ids"), mask(text[0].1.shape[1] + 1), position(text[0].1.shape[1])];
        let more = engine.resume(&next).unwrap();
        assert_eq!(more[1].1.shape[2], whole[1].1.shape[2] + 1, "{runtime}");
        // A run begins anew.
        assert_eq!(engine.run(&inputs).unwrap()[0].1.shape, whole[0].1.shape);
        let error = engine.run(&step.last).unwrap_err();
        assert!(error.message().contains("the engine needs an input `past_key_values.0."), "{runtime}: {error}");
    }
}

fn last_of(inputs: &runtime::Named, name: &str) -> (String, runtime::Tensor) {
    inputs.iter().find(|(given, _)| given == name).unwrap().clone()
}

fn integers(name: &str, values: Vec<i64>) -> (String, runtime::Tensor) {
    let shape = vec![1, values.len()];
    (name.to_owned(), runtime::Tensor { shape, elements: runtime::Elements::I64(values) })
}

fn mask(tokens: usize) -> (String, runtime::Tensor) {
    integers("attention_mask", vec![1; tokens])
}

fn position(of: usize) -> (String, runtime::Tensor) {
    integers("position_ids", vec![i64::try_from(of).unwrap()])
}
