//! `kilnc tune`: its output, a build with its recipe, and its refusals.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, fixture, kilnc, names, place};
use serde_json::Value;

fn texts(dir: &Path) -> PathBuf {
    let lines = [("the game is fast", "positive"), ("a mail server for the web", "neutral"), ("print it", "negative")]
        .map(|(text, label)| format!("{{\"text\": {text:?}, \"label\": {label:?}}}\n"));
    let path = dir.join("texts.jsonl");
    fs::write(&path, lines.concat()).unwrap();
    path
}

fn tune(arguments: &[OsString]) -> Ran {
    let mut all: Vec<OsString> = arguments!["tune", fixture("tiny-bert"), "--rounds", "1", "--shape", "1x16"].into();
    all.extend_from_slice(arguments);
    kilnc(all)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_fastest_that_keeps_the_bound_is_chosen_and_a_build_takes_it_up() {
    let place = place();
    let (texts, out) = (texts(place.path()), place.path().join("tuned"));
    let drop = "0.5";
    let ran = tune(&arguments!["--calibration", texts, "--max-drop", drop, "-o", out]).expect(0);
    assert_eq!(names(&out), ["recipe.toml", "tune.json", "tune.md", "tune.svg"]);

    let tuned: Value = serde_json::from_str(&read(&out.join("tune.json"))).unwrap();
    assert_eq!(
        (&tuned["schema"], &tuned["texts"], &tuned["labelled"]),
        (&"kilnc.tune/3".into(), &3.into(), &true.into())
    );
    let points = tuned["points"].as_array().unwrap();
    let fast = |point: &&Value| (point["fits"] == true).then(|| point["speed"].as_f64().unwrap());
    let chosen = &points[tuned["chosen"].as_u64().unwrap() as usize];
    let fastest = points.iter().filter_map(|point| fast(&point)).fold(0.0, f64::max);
    assert_eq!(fast(&chosen), Some(fastest));
    for point in points {
        assert_eq!(point["fits"], point["drop"].as_f64().unwrap() <= 0.5, "{point}");
    }
    let precisions: BTreeSet<&str> = points.iter().map(|point| point["precision"].as_str().unwrap()).collect();
    assert_eq!(precisions, BTreeSet::from(["fp32", "int8", "int8-fast"]));

    let layers = tuned["targets"][0]["layers"].as_array().unwrap();
    let of_layer_0: BTreeSet<&str> =
        layers.iter().filter_map(|layer| layer["name"].as_str().unwrap().strip_suffix("/0")).collect();
    assert_eq!(of_layer_0, BTreeSet::from(["attention-output", "ffn-in", "ffn-out", "key", "query", "value"]));
    let kept: Vec<&Value> =
        layers.iter().filter(|layer| layer["chosen"] == "fp32").map(|layer| &layer["name"]).collect();
    assert_eq!(kept.len(), tuned["keep"].as_array().unwrap().len());

    let (table, plot) = (read(&out.join("tune.md")), read(&out.join("tune.svg")));
    for layer in layers {
        assert!(table.contains(&format!("| {} | ", layer["name"].as_str().unwrap())), "{table}");
    }
    assert_eq!(plot.matches("<title>ort-cpu, ").count(), points.len(), "{plot}");
    assert_eq!(ran.stdout.matches("← chosen").count(), 1, "{}", ran.stdout);

    let bundle = place.path().join("model.kiln");
    kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", out.join("recipe.toml"), "-o", bundle]).expect(0);
    let manifest: Value = serde_json::from_str(&read(&bundle.join("manifest.json"))).unwrap();
    assert_eq!(manifest["engines"][0]["precision"], chosen["precision"]);
}

#[test]
fn engines_of_a_reduced_range_are_tuned_where_sums_saturate() {
    let place = place();
    let (texts, out, bundle) = (texts(place.path()), place.path().join("tuned"), place.path().join("model.kiln"));
    let common = arguments!["--calibration", texts, "--max-drop", "0.5", "-o", out];
    for (invoked, reduced) in [(&[][..], true), (&arguments!["--reduce-range=false"][..], false)] {
        tune(&[&common[..], invoked, &arguments!["--target", "ort-cpu", "--target", "tract"]].concat()).expect(0);
        let tuned: Value = serde_json::from_str(&read(&out.join("tune.json"))).unwrap();
        let chosen = &tuned["points"][tuned["chosen"].as_u64().unwrap() as usize];
        // Which is the fastest is not known; the recipe makes the one that was measured.
        let saturates = chosen["target"] == "ort-cpu" && chosen["precision"] != "fp32";
        for point in tuned["points"].as_array().unwrap() {
            let saturates = point["target"] == "ort-cpu" && point["precision"] != "fp32";
            assert_eq!(point["reduced_range"], saturates && reduced, "{point}");
        }
        let line = format!("\nreduce_range = {reduced}\n");
        assert_eq!(read(&out.join("recipe.toml")).contains(&line), saturates, "{chosen}");
        kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", out.join("recipe.toml"), "-o", bundle]).expect(0);
        let manifest: Value = serde_json::from_str(&read(&bundle.join("manifest.json"))).unwrap();
        assert_eq!(manifest["engines"][0]["reduced_range"] == true, saturates && reduced, "{manifest}");
    }

    let needless = arguments!["--reduce-range", "--target", "tract"];
    let said = tune(&[&common[..], &needless].concat()).expect(2).stderr;
    assert!(said.contains("no engine has products of 8 bits whose sums saturate\n  in --reduce-range"), "{said}");
}

#[test]
fn a_tuned_folder_is_replaced_and_another_is_not() {
    let place = place();
    let (texts, out) = (texts(place.path()), place.path().join("other"));
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine.txt"), "mine").unwrap();
    let ran = tune(&arguments!["--calibration", texts, "--max-drop", "0.5", "-o", out]).expect(2);
    assert!(ran.stderr.contains("other"), "{}", ran.stderr);
    assert_eq!(names(&out), ["mine.txt"]);
}

#[test]
fn models_that_cannot_be_tuned_are_refused_before_the_work() {
    let place = place();
    let (texts, out) = (texts(place.path()), place.path().join("tuned"));
    let refused = |arguments: &[OsString]| tune(arguments).expect(2).stderr;
    assert!(
        refused(&arguments!["--max-drop", "0.1", "-o", out])
            .contains("8-bit layers are calibrated on texts: give some")
    );
    let negative = refused(&arguments!["--calibration", texts, "--max-drop=-1", "-o", out]);
    assert!(negative.contains("`-1` is not a share from 0 to 1"), "{negative}");
    let inputs = refused(&arguments!["--calibration", "x.npz", "--max-drop", "0.1", "-o", out]);
    assert!(inputs.contains("x.npz holds no texts on which a loss could be measured"), "{inputs}");
    if kilnc::runtime::available(kilnc::runtime::Runtime::TensorRtRtx).is_err() {
        let gpu =
            tune(&arguments!["--calibration", texts, "--max-drop", "0.1", "--target", "tensorrt-rtx:sm75", "-o", out]);
        assert!(gpu.expect(4).stderr.contains("it needs an NVIDIA GPU"));
    }
    assert_eq!(names(place.path()), ["texts.jsonl"]);
}

#[test]
fn layers_that_the_model_has_not_are_named() {
    let place = place();
    let recipe = place.path().join("recipe.toml");
    let engine = "[[engine]]\ntarget = \"ort-cpu\"\nprecision = \"int8\"\nkeep = [\"ffn-out/99\"]\n";
    fs::write(&recipe, engine).unwrap();
    let out = place.path().join("model.kiln");
    let ran = kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out]).expect(2);
    assert!(ran.stderr.contains("error: `ffn-out/99` is in `keep`, and the model has no such layer"), "{}", ran.stderr);
    assert!(!out.exists());
}
