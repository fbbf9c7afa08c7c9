//! What users get wrong, by the binary: exit code 2, the whole message, and nothing written. What each reader refuses
//! is in `refusals/`.

mod common;

use std::fs;
use std::path::Path;

use common::{copied, edit, fixture, kilnc, names, place};

/// Exports a checkpoint and gives the error, after checking that nothing was written.
#[track_caller]
fn refusal(arguments: &[std::ffi::OsString]) -> String {
    let place = place();
    let mut all: Vec<std::ffi::OsString> = arguments.to_vec();
    all.extend(arguments!["-o", place.path().join("model.onnx"), "--quiet"]);
    let ran = kilnc(all).expect(2);
    assert!(names(place.path()).is_empty(), "left behind: {:?}", names(place.path()));
    assert_eq!(ran.stdout, "");
    ran.stderr
}

#[track_caller]
fn export_refusal(checkpoint: &Path) -> String {
    refusal(&arguments!["export", checkpoint])
}

#[test]
fn an_unknown_model_type_names_the_known_nearest_first() {
    let copy = copied("tiny-bert");
    edit(&copy.path().join("config.json"), "\"model_type\": \"bert\"", "\"model_type\": \"berd\"");
    let message = export_refusal(copy.path());
    let expected = "error: unknown model type `berd`\n  in config.json: model_type\n\n\
                    hint: did you mean `bert`? known, nearest first: bert, albert, ";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn a_wrong_shape_names_tensor_field_and_both_shapes() {
    let copy = copied("tiny-bert");
    edit(&copy.path().join("config.json"), "\"intermediate_size\": 64", "\"intermediate_size\": 48");
    assert_eq!(
        export_refusal(copy.path()),
        "error: tensor `bert.encoder.layer.0.intermediate.dense.weight` has shape [64, 32], expected [48, 32]\n  \
         in model.safetensors; the expectation comes from `intermediate_size` in config.json\n\n\
         hint: the weights and config.json look like different models\n"
    );
}

#[test]
fn a_missing_tensor_is_named_with_its_nearest() {
    let copy = copied("tiny-bert");
    edit(&copy.path().join("config.json"), "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    let message = export_refusal(copy.path());
    assert!(
        message.starts_with(
            "error: tensor `bert.encoder.layer.2.attention.self.query.weight` is missing\n  in model.safetensors\n"
        ),
        "{message}"
    );
    assert!(message.contains("hint: the nearest name there is `bert.encoder.layer."), "{message}");
}

#[test]
fn a_truncated_file_is_refused() {
    let copy = copied("tiny-bert");
    let path = copy.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let message = export_refusal(copy.path());
    assert!(message.contains("are outside the file's"), "{message}");
    assert!(
        message.ends_with("\n  in model.safetensors\n\nhint: the file is damaged or cut short; fetch it again\n"),
        "{message}"
    );
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let message = refusal(&arguments!["export", fixture("tiny-bert-base"), "--adapter", fixture("wrong-base-lora")]);
    assert!(message.contains("has shape [48, 48], the base model's [32, 32]"), "{message}");
    assert!(message.contains("hint: the adapter was trained on another model"), "{message}");
}

#[test]
fn combinations_say_what_they_lack() {
    let (base, lora) = (fixture("tiny-bert-base"), fixture("tiny-lora"));
    let refused = |options: &[&str]| {
        let mut arguments: Vec<std::ffi::OsString> = arguments!["merge", base, "-o", "merged"].into();
        arguments.extend(options.iter().map(Into::into));
        let ran = kilnc(arguments).expect(2);
        ran.stderr
    };
    let lora = lora.to_str().unwrap();
    assert!(refused(&["--combine", "linear"]).contains("--adapter"));
    assert!(refused(&["--adapter", lora, "--density", "0.5"]).contains("--combine"));
    let combined =
        |options: &[&str]| refused(&[&["--adapter", lora, "--adapter", lora, "--combine"], options].concat());
    assert!(combined(&["tise"]).contains("unknown combination `tise`; known: linear, cat, svd, ties, "));
    assert!(
        combined(&["ties"]).contains("error: --combine ties needs --density\n\nhint: the share of elements to keep")
    );
    assert!(combined(&["cat", "--seed", "1"]).contains("error: --seed does not belong to --combine cat"));
    let twice = combined(&["cat"]);
    assert!(twice.contains("`bert.pooler.dense.bias` is brought whole by two adapters"), "{twice}");
}

#[test]
fn things_that_are_not_there_are_named() {
    let nowhere = Path::new("nowhere");
    assert!(export_refusal(nowhere).starts_with("error: nowhere is not a folder\n"));
    let adapterless = refusal(&arguments!["export", fixture("tiny-bert"), "--adapter", fixture("tiny-bert")]);
    assert!(adapterless.contains("holds no adapter_config.json"), "{adapterless}");
    let headless = refusal(&arguments!["export", fixture("tiny-bert-base"), "--task", "text-classification"]);
    assert!(headless.contains("there is no `classifier.weight`"), "{headless}");
}

#[test]
fn a_model_is_not_written_where_it_cannot_be() {
    let ran = kilnc(arguments!["export", fixture("tiny-bert"), "-o", "model.bin"]).expect(2);
    assert!(ran.stderr.contains("does not end in .onnx"), "{}", ran.stderr);
    let place = place();
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let ran = kilnc(arguments!["export", fixture("tiny-bert"), "-o", file.join("model.onnx")]).expect(2);
    assert!(ran.stderr.contains("creating "), "{}", ran.stderr);
}

#[test]
fn errors_are_json_where_that_was_asked_for() {
    let ran = kilnc(arguments!["inspect", "nowhere", "--json"]).expect(2);
    assert_eq!(ran.json()["error"]["kind"], "bad-input");
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in ["build", "export", "merge", "run", "eval", "bench", "inspect", "verify"] {
        let ran = kilnc([command, "--help"]).expect(0);
        assert!(ran.stdout.contains("Example"), "{command}");
        assert!(ran.stdout.contains("kilnc "), "{command}");
    }
}

#[test]
fn a_recipe_with_a_mistake_names_its_line() {
    let place = place();
    let recipe = place.path().join("r.toml");
    fs::write(&recipe, "[[engine]]\ntarget = \"tensorrt-rtx:sm70\"\n").unwrap();
    let ran =
        kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", place.path().join("out")]).expect(2);
    assert!(
        ran.stderr.contains("r.toml line 2: unknown compute capability `sm70`; known: sm75 (T4, RTX 20)"),
        "{}",
        ran.stderr
    );
}
