//! Users' errors, by the binary: exit code 2, the whole message, and nothing written. What each reader refuses
//! is in `refusals/`.

use std::fs;
use std::path::Path;

use crate::common::{copied, edit, fixture, kilnc, names, place};

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

/// A legacy stream of `torch.save` whose next pickle calls `os.system`.
const EVIL_STREAM: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02cos\nsystem\n.";

/// A file that is put into a checkpoint, in place of another, and the error for it.
type Damage = (&'static str, &'static str, Vec<u8>, &'static str);

#[test]
fn every_reader_of_a_checkpoint_ends_with_code_2_and_writes_nothing() {
    let weights = fs::read(fixture("tiny-bert").join("model.safetensors")).unwrap();
    let config = fs::read_to_string(fixture("tiny-bert").join("config.json")).unwrap();
    let tokenizer = fs::read_to_string(fixture("tiny-bert").join("tokenizer.json")).unwrap();
    let weights_file = "model.safetensors";
    let index = |name: &str| format!(r#"{{"weight_map": {{"x": "{name}"}}}}"#).into_bytes();
    let mut fatal: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    fatal["normalizer"] = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAIA="});
    let fatal = fatal.to_string().into_bytes();
    let cases: [Damage; 14] = [
        (
            "tokenizer_config.json",
            "tokenizer_config.json",
            b"{\"do_lower_case\": \"yes\"}".to_vec(),
            "error: tokenizer_config.json: do_lower_case: invalid type: string \"yes\", expected a boolean\n",
        ),
        (
            "special_tokens_map.json",
            "tokenizer_config.json",
            b"{\"mask_token\": {\"lstrip\": true}}".to_vec(),
            "error: special_tokens_map.json: mask_token: missing field `content`\n",
        ),
        (
            "added_tokens.json",
            "tokenizer_config.json",
            b"{\"[PLACE]\": -1}".to_vec(),
            "error: added_tokens.json: [PLACE]: invalid value: integer `-1`, expected u32\n",
        ),
        (
            weights_file,
            weights_file,
            [&weights[..], b"x"].concat(),
            "error: 1 bytes follow the last tensor\n  in model.safetensors\n",
        ),
        (
            weights_file,
            weights_file,
            b"\x80\x02}q\x00.".to_vec(),
            "error: 6 bytes are too few for a safetensors file\n",
        ),
        (
            "pytorch_model.bin",
            weights_file,
            EVIL_STREAM.to_vec(),
            "error: the pickle calls `os.system`, which kilnc does not run\n",
        ),
        (
            "model.safetensors.index.json",
            weights_file,
            index("../x"),
            "error: `../x` is no name of a file beside the index\n",
        ),
        ("model.safetensors.index.json", weights_file, index("x"), "error: the shard x is missing\n"),
        (
            "config.json",
            "config.json",
            config.replacen('{', "{\"a\": 1, \"a\": 2,", 1).into_bytes(),
            "error: config.json: duplicate `a` at line 1 column ",
        ),
        (
            "config.json",
            "config.json",
            format!("\u{feff}{config}").into_bytes(),
            "error: config.json: starts with a byte order mark\n",
        ),
        (
            "tokenizer.json",
            "tokenizer.json",
            tokenizer.replace("\"id\": 4", "\"id\": -4").into_bytes(),
            "error: tokenizer.json: added_tokens[4].id: invalid value: integer `-4`",
        ),
        (
            "tokenizer.json",
            "tokenizer.json",
            fatal,
            "warning: transformers 5 differs from 4 for BertTokenizer in how a text is normalized; kilnc follows 4\n\
             error: tokenizer.json: the tokenizer's library fails on it\n\nhint: ",
        ),
        ("tokenizer.json", "tokenizer.json", b"[".to_vec(), "error: tokenizer.json: "),
        ("tokenizer_config.json", "tokenizer_config.json", b"[".to_vec(), "error: tokenizer_config.json: "),
    ];
    for (file, replaced, bytes, expected) in cases {
        let copy = copied("tiny-bert");
        fs::remove_file(copy.path().join(replaced)).unwrap();
        fs::write(copy.path().join(file), bytes).unwrap();
        let out = place();
        let ran = kilnc(arguments!["build", copy.path(), "-o", out.path().join("new/out"), "--quiet"]).expect(2);
        assert!(ran.stderr.starts_with(expected), "{expected}\n{}", ran.stderr);
        assert_eq!((ran.stdout.as_str(), ran.stderr.matches("error:").count()), ("", 1));
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        assert!(names(out.path()).is_empty(), "left behind: {:?}", names(out.path()));
    }
}

#[test]
fn every_reader_of_a_recipe_ends_with_code_2_and_writes_nothing() {
    let cases = [
        (
            "labels.json",
            "[\"a\", null, \"b\"]",
            "labels = \"labels.json\"",
            "error: the label 1 is null, expected a text or a number\n  in labels.json\n",
        ),
        (
            "t.jsonl",
            "{\"text\": \"a\"}\nno\n",
            "texts = \"t.jsonl\"",
            "error: t.jsonl line 2: expected ident at line 1 column 2",
        ),
        ("t.jsonl", "", "texts = \"t.jsonl\"", "error: t.jsonl holds no texts\n"),
        (
            "g.safetensors",
            "PK\u{3}\u{4}1234567890",
            "[golden]\nfile = \"g.safetensors\"\nmax_abs = 1.0",
            "error: header: ",
        ),
        ("x", "", "max_length = 65", "error: max_length 65 is outside 2…64, the positions that the model has"),
    ];
    for (file, content, recipe, expected) in cases {
        let place = place();
        fs::write(place.path().join(file), content).unwrap();
        fs::write(place.path().join("r.toml"), recipe).unwrap();
        let out = place.path().join("out");
        let all =
            arguments!["build", fixture("tiny-bert"), "--recipe", place.path().join("r.toml"), "-o", out, "--quiet"];
        let ran = kilnc(all).expect(2);
        assert!(ran.stderr.starts_with(expected), "{expected}\n{}", ran.stderr);
        assert!(!out.exists());
    }
    let bundle = place();
    fs::write(bundle.path().join("manifest.json"), "{\"schema\": \"kilnc.bundle/9\"}").unwrap();
    let ran = kilnc(arguments!["run", bundle.path(), "--text", "a"]).expect(2);
    assert!(ran.stderr.starts_with(
        "error: the bundle has the form `kilnc.bundle/9`, this kilnc reads `kilnc.bundle/2` and `kilnc.bundle/1`\n"
    ));
}

#[test]
fn names_from_outside_cannot_move_the_cursor() {
    let copy = copied("tiny-bert");
    let path = copy.path().join("config.json");
    edit(&path, "\"BertForSequenceClassification\"", "\"Bert\\u001b[2JForSequenceClassification\"");
    let ran = kilnc(arguments!["inspect", copy.path()]).expect(0);
    assert!(ran.stdout.contains("(Bert\\u{1b}[2JForSequenceClassification)"), "{}", ran.stdout);
    edit(&path, "\"model_type\": \"bert\"", "\"model_type\": \"b\\u001b]0;x\\u0007\"");
    let ran = kilnc(arguments!["inspect", copy.path()]).expect(0);
    assert!(ran.stdout.starts_with("checkpoint of a b\\u{1b}]0;x\\u{7} "), "{}", ran.stdout);
    let message = export_refusal(copy.path());
    assert!(message.starts_with("error: unknown model type `b\\u{1b}]0;x\\u{7}`\n"), "{message}");
}

#[test]
fn a_template_of_a_chat_is_never_rendered() {
    let copy = copied("tiny-bert");
    let endless = "{% for i in range(1000000000000) %}{{ raise_exception('rendered') }}{% endfor %}";
    fs::write(copy.path().join("chat_template.jinja"), endless).unwrap();
    let config = serde_json::json!({"chat_template": endless, "tokenizer_class": "BertTokenizer"});
    fs::write(copy.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let out = place();
    kilnc(arguments!["build", copy.path(), "-o", out.path().join("out"), "--target", "tract", "--quiet"]).expect(0);
    kilnc(arguments!["merge", copy.path(), "-o", out.path().join("merged"), "--quiet"]).expect(0);
    assert_eq!(fs::read_to_string(out.path().join("merged/chat_template.jinja")).unwrap(), endless);
}

#[test]
#[cfg(unix)]
fn a_million_tiny_tensors_are_read_in_bounded_memory() {
    let entries = (0..1_000_000).map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#));
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let place = place();
    let path = place.path().join("million.safetensors");
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    // 1 GB of addresses, for a header of 57 MB.
    let limited = "ulimit -v 1000000 && exec \"$0\" inspect \"$1\"";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", limited, env!("CARGO_BIN_EXE_kilnc")]).arg(&path);
    let ran = crate::common::Ran::from(shell.output().unwrap()).expect(0);
    assert_eq!(ran.stdout.lines().count(), 1_000_001);
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let message = refusal(&arguments!["export", fixture("tiny-bert-base"), "--adapter", fixture("wrong-base-lora")]);
    assert!(message.contains("has shape [48, 48], the base model's [32, 32]"), "{message}");
    assert!(message.contains("hint: the adapter was trained on another model"), "{message}");
}

#[test]
fn combinations_name_what_they_lack() {
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
    assert!(twice.contains("`bert.pooler.dense.bias` is saved whole by two adapters"), "{twice}");
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
fn an_output_is_no_input_and_replaces_only_kilncs_own() {
    let copy = copied("tiny-bert");
    let recipe = copy.path().join("r.toml");
    fs::write(&recipe, "").unwrap();
    let folder = place();
    let said = |output: &Path| {
        let all = arguments!["build", copy.path(), "--recipe", recipe, "-o", output, "--quiet"];
        kilnc(all).expect(2).stderr
    };
    let before = names(copy.path());
    let parent = copy.path().parent().unwrap();
    for replaced in [copy.path(), &copy.path().join("../").join(copy.path().file_name().unwrap()), parent] {
        let expected = format!("error: the output {} would replace the input ", replaced.display());
        assert!(said(replaced).starts_with(&expected), "{}", said(replaced));
    }
    assert!(said(&recipe).contains(" would replace the input "));
    assert!(said(&copy.path().join("out")).contains(" is inside the input "));
    assert!(
        said(folder.path()).contains(" is a folder that kilnc did not make\n\nhint: remove it, or choose another name")
    );
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert!(said(&file).contains(" is a file that kilnc did not make\n"));
    let model = folder.path().join("model.onnx");
    fs::create_dir(&model).unwrap();
    let ran = kilnc(arguments!["export", copy.path(), "-o", model]).expect(2);
    assert!(ran.stderr.contains("model.onnx is a folder that kilnc did not make\n"), "{}", ran.stderr);
    assert_eq!((names(copy.path()), names(folder.path())), (before, vec!["file".to_owned(), "model.onnx".to_owned()]));
}

#[test]
#[cfg(unix)]
fn an_output_is_no_link() {
    let folder = place();
    for (link, target) in [("model.onnx", "real.onnx"), ("dangling.onnx", "nowhere")] {
        fs::write(folder.path().join("real.onnx"), "real").unwrap();
        std::os::unix::fs::symlink(folder.path().join(target), folder.path().join(link)).unwrap();
        let ran = kilnc(arguments!["export", fixture("tiny-bert"), "-o", folder.path().join(link)]).expect(2);
        assert!(ran.stderr.contains(&format!("{link} is a link\n\nhint: remove it first")), "{}", ran.stderr);
        assert_eq!(fs::read_to_string(folder.path().join("real.onnx")).unwrap(), "real");
    }
}

#[test]
#[cfg(unix)]
fn a_path_that_is_not_utf_8_is_read_but_not_written() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = place();
    let non_finite = folder.path().join(OsStr::from_bytes(b"m\xff"));
    fs::create_dir(&non_finite).unwrap();
    for entry in fs::read_dir(fixture("tiny-bert")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), non_finite.join(entry.file_name())).unwrap();
    }
    kilnc(arguments!["export", non_finite, "-o", folder.path().join("model.onnx"), "--quiet"]).expect(0);
    kilnc(arguments!["build", non_finite, "-o", folder.path().join("out"), "--target", "tract", "--quiet"]).expect(0);
    let before = names_of(folder.path());
    for output in [folder.path().join(OsStr::from_bytes(b"n\xff.onnx")), non_finite.join("x.onnx")] {
        let ran = kilnc(arguments!["export", fixture("tiny-bert"), "-o", output]).expect(2);
        assert!(
            ran.stderr.starts_with("error: the output's path ") && ran.stderr.contains(" is not UTF-8\n"),
            "{}",
            ran.stderr
        );
    }
    let ran =
        kilnc(arguments!["export", fixture("tiny-bert"), "--adapter", non_finite, "-o", folder.path().join("x.onnx")])
            .expect(2);
    assert!(ran.stderr.contains(" holds no adapter_config.json"), "{}", ran.stderr);
    assert_eq!(names_of(folder.path()), before);
}

/// All names in a folder.
fn names_of(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
#[cfg(target_os = "linux")]
fn an_unwritable_path_is_refused_before_the_work() {
    // Not even root writes there. The checkpoint is not one, which would be said first if it were read first.
    let nowhere = Path::new("/proc/kilnc");
    for arguments in [
        arguments!["export", "nowhere", "-o", nowhere.join("model.onnx"), "--quiet"],
        arguments!["build", "nowhere", "-o", nowhere.join("out"), "--quiet"],
    ] {
        let ran = kilnc(arguments).expect(2);
        assert_eq!(ran.stderr, "error: creating /proc/kilnc: No such file or directory (os error 2)\n");
    }
}

#[test]
fn errors_are_json_on_request() {
    let ran = kilnc(arguments!["inspect", "nowhere", "--json"]).expect(2);
    assert_eq!(ran.json()["error"]["kind"], "bad-input");
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in ["build", "export", "merge", "quantize", "run", "eval", "bench", "inspect", "verify"] {
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
