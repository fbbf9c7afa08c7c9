//! Checkpoints that are damaged, that contradict themselves, or that kilnc does not know.

use std::fs;
use std::path::Path;

use kilnc::error::{Error, Result};
use kilnc::front::hub::arch;
use kilnc::front::hub::checkpoint::{Checkpoint, CommonConfig};
use kilnc::json;
use kilnc::task::Task;

use super::{Tensors, copied, edit, fixture, floats, read_tensors, write_tensors};

const QUERY: &str = "bert.encoder.layer.1.attention.self.query.weight";

fn build_graph(dir: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(dir)?;
    let state = arch::canonical_state(&checkpoint)?;
    arch::build(&checkpoint, &state, None).map(drop)
}

/// The error for tiny-bert after `from` became `to` in its config.json.
fn config_refusal(from: &str, to: &str) -> String {
    let dir = copied("tiny-bert", &["config.json", "model.safetensors"]);
    edit(&dir.path().join("config.json"), from, to);
    refusal(build_graph(dir.path()))
}

/// The error for tiny-bert after its tensors were changed.
fn tensor_refusal(change: impl FnOnce(&mut Tensors)) -> String {
    let dir = copied("tiny-bert", &["config.json", "model.safetensors"]);
    let path = dir.path().join("model.safetensors");
    let mut tensors = read_tensors(&path);
    change(&mut tensors);
    write_tensors(&path, &tensors);
    refusal(build_graph(dir.path()))
}

fn refusal(result: Result<()>) -> String {
    let error: Error = result.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn a_sound_checkpoint_is_built() {
    build_graph(&fixture("tiny-bert")).unwrap();
    build_graph(&fixture("tiny-bert-base")).unwrap();
}

#[test]
fn an_unknown_model_type_is_named_with_the_known_ones() {
    let common: CommonConfig = json::read(&fixture("roberta-config").join("config.json")).unwrap();
    let error = arch::family(&common).err().unwrap();
    assert_eq!(error.message(), "unknown model type `robertta`");
    assert_eq!(error.locations(), ["config.json: model_type"]);
    assert!(
        error.hints()[0].starts_with("did you mean `roberta`? known, nearest first: roberta, "),
        "{:?}",
        error.hints()
    );
}

#[test]
fn a_misspelt_model_type_gets_the_nearest_as_a_hint() {
    let said = config_refusal(r#""model_type": "bert""#, r#""model_type": "brt""#);
    assert!(
        said.starts_with(
            "unknown model type `brt`\n  in config.json: model_type\n\nhint: did you mean `bert`? known, "
        ),
        "{said}"
    );
    let said = config_refusal(r#""model_type": "bert","#, "");
    assert!(
        said.starts_with("`model_type` is missing\n  in config.json\n\nhint: known, nearest first: ")
            && said.contains(", bert, "),
        "{said}"
    );
}

#[test]
fn a_missing_tensor_is_named_with_the_nearest_there_is() {
    assert_eq!(
        tensor_refusal(|tensors| drop(tensors.remove(QUERY))),
        format!(
            "tensor `{QUERY}` is missing\n  in model.safetensors\n\n\
             hint: the nearest name there is `bert.encoder.layer.0.attention.self.query.weight`"
        )
    );
}

#[test]
fn a_wrong_shape_is_named_with_the_field_that_expects_another() {
    assert_eq!(
        tensor_refusal(|tensors| *tensors.get_mut(QUERY).unwrap() = floats(&[48, 32], 0.0)),
        format!(
            "tensor `{QUERY}` has shape [48, 32], expected [32, 32]\n  \
             in model.safetensors; the expectation comes from `hidden_size` in config.json\n\n\
             hint: the weights and config.json look like different models"
        )
    );
    assert_eq!(
        config_refusal(r#""intermediate_size": 64"#, r#""intermediate_size": 128"#),
        "tensor `bert.encoder.layer.0.intermediate.dense.weight` has shape [64, 32], expected [128, 32]\n  \
         in model.safetensors; the expectation comes from `intermediate_size` in config.json\n\n\
         hint: the weights and config.json look like different models"
    );
}

#[test]
fn a_file_that_is_cut_short_is_refused() {
    let dir = copied("tiny-bert", &["config.json", "model.safetensors"]);
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let said = refusal(build_graph(dir.path()));
    assert!(said.starts_with("tensor `"), "{said}");
    assert!(said.contains("are outside the file's "), "{said}");
    let end = "\n  in model.safetensors\n\nhint: the file is damaged or cut short; fetch it again";
    assert!(said.ends_with(end), "{said}");

    fs::write(&path, &bytes[..100]).unwrap();
    let said = refusal(build_graph(dir.path()));
    assert!(said.starts_with("header: ") && said.contains(" bytes announced, 92 are left in the file"), "{said}");
    fs::write(&path, []).unwrap();
    assert!(refusal(build_graph(dir.path())).ends_with(end));
}

#[test]
fn sizes_that_are_none_are_refused_with_their_field() {
    let size = |value: &str| config_refusal(r#""hidden_size": 32"#, &format!(r#""hidden_size": {value}"#));
    assert_eq!(size("0"), "`num_attention_heads` 4 does not divide `hidden_size` 0\n  in config.json");
    let cases = [
        ("-1", "config.json: hidden_size: invalid value: integer `-1`, expected usize"),
        ("1e300", "config.json: hidden_size: invalid type: floating point `1e+300`, expected usize"),
        ("1e999", "config.json: hidden_size: number out of range"),
        ("NaN", "config.json: hidden_size: expected value"),
        (r#""32""#, r#"config.json: hidden_size: invalid type: string "32", expected usize"#),
        ("null", "config.json: hidden_size: invalid type: null, expected usize"),
        ("18446744073709551616", "config.json: hidden_size: invalid type: floating point `1.8446744073709552e+19`"),
        ("32, \"hidden_size\": 32", "config.json: duplicate `hidden_size` at line "),
    ];
    for (value, expected) in cases {
        let said = size(value);
        assert!(said.starts_with(expected), "{value}: {said}");
    }
}

#[test]
fn json_is_valid_in_unread_fields_too() {
    let ignored = |value: &str| config_refusal(r#""use_cache": true"#, &format!(r#""ignored": {value}"#));
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(ignored(&deep).contains(": recursion limit exceeded at line "), "{}", ignored(&deep));
    let cases = [
        (r#"{"a": [{"b": 1, "b": 1}]}"#, "config.json: ignored.a[0]: duplicate `b` at line "),
        ("NaN", "config.json: ignored: expected value at line "),
        ("-Infinity", "config.json: ignored: invalid number at line "),
        ("1e999", "config.json: ignored: number out of range at line "),
        (
            "\"\u{1}\"",
            "config.json: ignored: control character (\\u0000-\\u001F) found while parsing a string at line ",
        ),
    ];
    for (value, expected) in cases {
        let said = ignored(value);
        assert!(said.starts_with(expected), "{value}: {said}");
    }
}

#[test]
fn a_configuration_is_one_plain_file_of_json() {
    let dir = copied("tiny-bert", &["config.json", "model.safetensors"]);
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let said = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        refusal(build_graph(dir.path()))
    };
    assert_eq!(
        said(format!("\u{feff}{text}").as_bytes()),
        "config.json: starts with a byte order mark\n\nhint: save it as plain UTF-8"
    );
    assert!(said(format!("{text} {{}}").as_bytes()).starts_with("config.json: trailing characters at line "));
    assert!(said(&text.as_bytes()[..100]).contains(": EOF while parsing a value at line "));
    assert!(said(b"").starts_with("config.json: EOF while parsing a value at line 1"));
    assert!(said(b"[]").starts_with("config.json: invalid length 0, expected struct CommonConfig"));
    assert!(said(b"{\"a\": \"\xff\"}").ends_with(": stream did not contain valid UTF-8"));
    fs::remove_file(&path).unwrap();
    assert!(refusal(build_graph(dir.path())).ends_with("config.json: No such file or directory (os error 2)"));
    fs::create_dir(&path).unwrap();
    assert!(refusal(build_graph(dir.path())).ends_with("config.json is no plain file"));
}

#[test]
#[cfg(unix)]
fn a_pipe_is_no_part_of_a_checkpoint() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    for (file, others, expected) in [
        ("config.json", "model.safetensors", "config.json is no plain file"),
        ("model.safetensors", "config.json", "model.safetensors is no plain file"),
    ] {
        let dir = copied("tiny-bert", &[others]);
        mknodat(CWD, dir.path().join(file), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let said = refusal(build_graph(dir.path()));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
#[cfg(unix)]
fn links_to_files_are_followed_as_the_cache_of_the_hub_has_them() {
    let blobs = copied("tiny-bert", &["config.json", "model.safetensors"]);
    let snapshot = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::os::unix::fs::symlink(blobs.path().join(file), snapshot.path().join(file)).unwrap();
    }
    build_graph(snapshot.path()).unwrap();
}

#[test]
fn heads_that_do_not_divide_the_width_are_refused() {
    let heads = |n| config_refusal(r#""num_attention_heads": 4"#, &format!(r#""num_attention_heads": {n}"#));
    for n in [0usize, 5, usize::MAX] {
        assert_eq!(heads(n), format!("`num_attention_heads` {n} does not divide `hidden_size` 32\n  in config.json"));
    }
}

#[test]
fn more_layers_than_there_are_fail_at_the_first_that_is_missing() {
    let said = config_refusal(r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 2147483648"#);
    let expected = "tensor `bert.encoder.layer.2.attention.self.query.weight` is missing\n  in model.safetensors\n\n";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn layers_that_share_their_weights_are_limited_in_number() {
    let dir = copied("families/albert/seqcls", &["config.json", "model.safetensors"]);
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = json::read(&path).unwrap();
    for (layers, inner, found) in
        [(2147483648u64, 1, 2147483648u64), (1, 1025, 1025), (2, 0, 0), (u64::MAX, 2, u64::MAX)]
    {
        config["num_hidden_layers"] = layers.into();
        config["inner_group_num"] = inner.into();
        fs::write(&path, config.to_string()).unwrap();
        assert_eq!(
            refusal(build_graph(dir.path())),
            format!("expected 1 to 1024 layers, found {found}\n  in config.json: num_hidden_layers × inner_group_num")
        );
    }
}

#[test]
fn sizes_of_zero_are_refused_with_their_field() {
    for (field, value) in
        [("vocab_size", 121), ("max_position_embeddings", 64), ("type_vocab_size", 2), ("intermediate_size", 64)]
    {
        let said = config_refusal(&format!("\"{field}\": {value}"), &format!("\"{field}\": 0"));
        assert_eq!(said, format!("`{field}` is 0, expected 1 or more\n  in config.json"));
    }
}

#[test]
fn options_that_would_change_the_outputs_are_refused_by_name() {
    let cases = [
        (
            r#""position_embedding_type": "absolute""#,
            r#""position_embedding_type": "relative_key""#,
            "only absolute positions are built for this family\n  in config.json: position_embedding_type",
        ),
        (
            r#""use_cache": true"#,
            r#""is_decoder": true"#,
            "an encoder used as a decoder is not built\n  in config.json: is_decoder",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(config_refusal(from, to), expected);
    }
    let said = config_refusal(r#""hidden_act": "gelu""#, r#""hidden_act": "mish""#);
    assert!(said.starts_with("config.json: hidden_act: unknown variant `mish`, expected one of `gelu`"), "{said}");
    let said = config_refusal(r#""use_cache": true"#, r#""problem_type": "ordinal""#);
    let expected =
        "config.json: problem_type: unknown variant `ordinal`, expected one of `single_label_classification`";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn code_that_a_configuration_names_is_never_run() {
    let dir = copied("tiny-bert", &["config.json", "model.safetensors"]);
    let path = dir.path().join("config.json");
    edit(&path, r#""use_cache": true"#, r#""auto_map": {"AutoModel": "evil.Model"}, "use_cache": true"#);
    build_graph(dir.path()).unwrap();
}

#[test]
fn a_folder_without_a_model_names_what_it_lacks() {
    let dir = copied("tiny-bert", &["config.json"]);
    assert!(
        refusal(build_graph(dir.path())).starts_with("neither model.safetensors nor pytorch_model.bin is there\n  in ")
    );
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    assert!(refusal(build_graph(dir.path())).contains("the file is neither a zip archive nor a stream of PyTorch"));
    let file = dir.path().join("config.json");
    assert!(refusal(build_graph(&file)).contains(" is not a folder\n\nhint: give the folder"));
}

#[test]
fn a_bare_encoder_is_no_classifier() {
    let checkpoint = Checkpoint::open(&fixture("tiny-bert-base")).unwrap();
    let state = arch::canonical_state(&checkpoint).unwrap();
    let error = arch::build(&checkpoint, &state, Some(Task::TextClassification)).unwrap_err();
    assert_eq!(error.message(), "text-classification needs a head, and there is no `classifier.weight`");
}
