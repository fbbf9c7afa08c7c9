//! Values that make no sense are refused before the work, with those that do.

use std::fs;

use crate::common::{fixture, kilnc, names, place};

#[test]
fn a_flag_is_checked_before_anything_is_read() {
    let place = place();
    let out = place.path().join("out");
    let prune = ["prune", "/nowhere", "--calibration", "/nowhere.jsonl"];
    let tune = ["tune", "/nowhere", "--calibration", "/nowhere.jsonl"];
    let build = ["build", "/nowhere"];
    let run = ["run", "/nowhere", "--text", "a"];
    let bench = ["bench", "/nowhere"];
    let share = "is not a share from 0 to 1";
    let faster = "is not a factor above 1 and up to 100";
    let threads = "is not a whole number from 1 to 1024";
    let length = "is not a whole number from 3 to 65536";
    let of_1 = "must be a number from 0 to 1, found";
    let cases: &[(&[&str], &str, &[&str], &str)] = &[
        (&prune, "--speedup", &["0", "1", "0.5", "-2", "nan", "inf", "1e9"], faster),
        (&prune, "--max-drop", &["2", "-0.1", "nan"], share),
        (&prune, "--heads", &["2", "-1", "nan"], "the share that goes is from 0 to 1"),
        (&prune, "--ffn", &["1.01"], "the share that goes is from 0 to 1"),
        (&prune, "--products", &["5"], "the share that goes is from 0 to 1"),
        (&prune, "--sparsity", &["0", "1", "-1", "1e-400", "nan"], "the share of zeros is above 0 and below 1"),
        (&prune, "--layers", &["0"], "is not a whole number from 1"),
        (&prune, "--shape", &["0x8", "1x0", "1x99999"], "write batch and length as in 1x128"),
        (&prune, "--gate", &["agreement=2", "accuracy_drop=5", "cosine=-1"], of_1),
        (&prune, "--gate", &["max_abs=-1", "max_abs=nan"], "must be a number of 0 or more, found"),
        (&prune, "--max-length", &["0", "2", "70000"], length),
        (&tune, "--max-drop", &["1.5", "-1"], share),
        (&tune, "--max-length", &["2"], length),
        (&build, "--gate", &["agreement=2", "agreement=0.9,accuracy_drop=5"], of_1),
        (&build, "--max-length", &["2"], length),
        (&build, "--samples", &["0"], "is not a whole number from 1"),
        (&build, "--adapter", &["x@1e-400", "x@0", "x@inf", "x@1e39", "x@1e-45"], "the scale must be a number"),
        (&["quantize", "/nowhere"], "--gate", &["agreement=2"], of_1),
        (&["quantize", "/nowhere"], "--max-length", &["1"], length),
        (&["merge", "/nowhere"], "--adapter", &["x@1e-400"], "the scale must be a number"),
        (&["export", "/nowhere"], "--adapter", &["x@1e-400"], "the scale must be a number"),
        (&run, "--threads", &["0", "1000000", "-1", "x"], threads),
        (&run, "--batch", &["0", "1000000"], "is not a whole number from 1 to 4096"),
        (&run, "--top-k", &["0"], "is not a whole number from 1"),
        (&run, "--max-answer-length", &["0"], "is not a whole number from 1"),
        (&run, "--max-length", &["2"], length),
        (&bench, "--threads", &["0", "1000000"], threads),
        (&bench, "--rounds", &["0", "1001"], "is not in 1..=1000"),
        (&bench, "--seconds", &["0", "-1", "nan", "3601"], "expected a number of seconds, at most 3600"),
        (&bench, "--batch", &["0", "5000"], "is not in 1..=4096"),
        (&["eval", "/nowhere", "--data", "x"], "--max-answer-length", &["0"], "is not a whole number from 1"),
    ];
    for (command, flag, values, expected) in cases {
        for value in *values {
            let mut arguments: Vec<std::ffi::OsString> = command.iter().map(Into::into).collect();
            arguments.push(format!("{flag}={value}").into());
            if !["run", "bench", "eval"].contains(&command[0]) {
                let named = if command[0] == "export" { out.with_extension("onnx") } else { out.clone() };
                arguments.extend(arguments!["-o", named]);
            }
            let said = kilnc(&arguments).expect(2).stderr;
            assert!(said.contains(expected), "{arguments:?}: {said}");
            assert!(!said.contains("/nowhere"), "{arguments:?} was refused after something was read: {said}");
        }
    }
    assert!(names(place.path()).is_empty());
}

#[test]
fn a_recipe_is_checked_before_the_work() {
    let place = place();
    let (recipe, out) = (place.path().join("recipe.toml"), place.path().join("out"));
    let engine = "[[engine]]\ntarget = \"tract\"\n";
    for (text, expected) in [
        (
            format!("{engine}gate = {{ agreement = 2 }}"),
            "line 3: the bound of `agreement` must be a number from 0 to 1",
        ),
        (format!("{engine}gate = {{ accuracy_drop = 5.0 }}"), "line 3: the bound of `accuracy_drop` must be a number"),
        (format!("{engine}gate = {{ max_abs = nan }}"), "line 3: the bound of `max_abs` must be a number of 0 or more"),
        ("golden = { file = \"x\", max_abs = -1.0 }".to_owned(), "line 1: the bound of `max_abs` must be a number"),
        ("max_length = 2".to_owned(), "leaves none beside the 2 around every text; it has to be 3 or more"),
        ("max_length = 0".to_owned(), "max_length 0 is outside 2…64"),
        ("[bench]\nrounds = 0".to_owned(), "bench.rounds: expected 1…1000"),
        ("[bench]\nseconds = nan".to_owned(), "bench.seconds: expected more than 0"),
        ("[prune]\nheads = 2.0".to_owned(), "prune: heads = 2: the share that goes is from 0 to 1"),
        ("[calibration]\nfile = \"x.jsonl\"\nsamples = 0".to_owned(), "calibration: `samples` must be 1 or more"),
        ("[pipeline]\ntop_k = 0".to_owned(), "0 predictions are requested"),
    ] {
        fs::write(&recipe, &text).unwrap();
        let ran = kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out]).expect(2);
        assert!(ran.stderr.contains(expected), "{text}: {}", ran.stderr);
    }
    assert_eq!(names(place.path()), ["recipe.toml"]);
}

/// Texts for timing are no longer than the model reads.
#[test]
fn a_model_of_few_positions_is_timed_by_texts_that_it_reads() {
    let place = place();
    let (texts, out) = (crate::common::jsonl(place.path()), place.path().join("tiny.kiln"));
    // It has 64 positions.
    let timed = ["--rounds", "1"];
    let prune = |more: &[&str]| {
        let mut arguments =
            arguments!["prune", fixture("tiny-bert"), "--heads", "0.5", "--calibration", texts].to_vec();
        arguments.extend(timed.iter().chain(more).map(Into::into));
        arguments.extend(arguments!["-o", place.path().join("pruned.kiln"), "--json"]);
        kilnc(arguments)
    };
    let found = prune(&[]).expect(0).json();
    assert_eq!(found["shape"], serde_json::json!([1, 64]));
    assert!(found["speed"]["mean"].as_f64().unwrap() > 0.0, "{found}");
    let said = prune(&["--shape", "1x128"]).expect(2).stderr;
    assert!(said.contains("texts of 128 tokens: the model reads 1 to 64\n  in --shape"), "{said}");

    let tune = |more: &[&str]| {
        let mut arguments =
            arguments!["tune", fixture("tiny-bert"), "--max-drop", "0.5", "--calibration", texts].to_vec();
        arguments.extend(timed.iter().chain(more).map(Into::into));
        arguments.extend(arguments!["-o", place.path().join("tuned"), "--json"]);
        kilnc(arguments)
    };
    assert_eq!(tune(&[]).expect(0).json()["shape"], serde_json::json!([1, 64]));
    let said = tune(&["--shape", "2x65"]).expect(2).stderr;
    assert!(said.contains("texts of 65 tokens: the model reads 1 to 64\n  in --shape"), "{said}");

    let targets = arguments!["--target", "ort-cpu", "--target", "tract"];
    let build = [&arguments!["build", fixture("tiny-bert"), "-o", out][..], &targets].concat();
    kilnc([&build[..], &arguments!["--max-length", "32"]].concat()).expect(0);
    let onnx = place.path().join("model.onnx");
    kilnc(arguments!["export", fixture("tiny-bert"), "-o", onnx]).expect(0);
    let bench = |engines: &[&std::path::Path], more: &[&str]| {
        let mut arguments = arguments!["bench", "--seconds", "0.01", "--rounds", "1", "--json"].to_vec();
        arguments.extend(engines.iter().map(|path| path.into()));
        arguments.extend(more.iter().map(Into::into));
        kilnc(arguments)
    };
    let lengths = |report: &serde_json::Value| -> Vec<u64> {
        let engines = report["engines"].as_array().unwrap();
        engines.iter().flat_map(|e| e["points"].as_array().unwrap()).map(|p| p["length"].as_u64().unwrap()).collect()
    };
    // A bundle has its longest text; a lone file's is found out.
    assert_eq!(lengths(&bench(&[&out], &[]).expect(0).json()), [32, 32]);
    assert_eq!(lengths(&bench(&[&onnx], &[]).expect(0).json()), [64]);
    assert_eq!(lengths(&bench(&[&onnx, &out], &[]).expect(0).json()), [32, 32, 32]);
    assert_eq!(lengths(&bench(&[&out], &["--length", "64"]).expect(0).json()), [64, 64]);
    let said = bench(&[&out], &["--length", "16,65"]).expect(2).stderr;
    assert!(said.contains("texts of 65 tokens: the model reads 1 to 64"), "{said}");
    let said = bench(&[&out], &["--profile", "t4"]).expect(2).stderr;
    assert!(said.contains("texts of 128 tokens: the model reads 1 to 64"), "{said}");
}
