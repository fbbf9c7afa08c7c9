//! Models of sentence-transformers as versions before and after 5.4 save them: their files decide the graph.

use std::fs;
use std::path::Path;

use crate::common::{Ran, command, copied, edit, fixture, kilnc, place};
use kilnc::back::onnx;
use kilnc::build::{self, Scheme, Source};
use kilnc::eval::Golden;
use kilnc::front::hub::checkpoint::Checkpoint;
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::{self, Elements, Options, Runtime};
use kilnc::target::Target;
use kilnc::task::Task;
use serde_json::{Value, json};
use tempfile::TempDir;

const MODEL: &str = "config_sentence_transformers.json";
const TEXT: &str = "a mail server and a game";

/// A fixture with files that are other, or more.
fn with(name: &str, files: &[(&str, Value)]) -> TempDir {
    let dir = copied(name);
    for (file, content) in files {
        fs::write(dir.path().join(file), content.to_string()).unwrap();
    }
    dir
}

/// A bundle of a checkpoint, for tract.
fn built(checkpoint: &Path) -> TempDir {
    let place = place();
    let out = place.path().join("model.kiln");
    kilnc(arguments!["build", checkpoint, "--target", "tract", "-o", out, "--quiet"]).expect(0);
    place
}

fn manifest(place: &TempDir) -> Value {
    serde_json::from_str(&fs::read_to_string(place.path().join("model.kiln/manifest.json")).unwrap()).unwrap()
}

/// The bundle's predictions for texts.
fn run(place: &TempDir, more: &[&str]) -> Value {
    let invoked = arguments!["run", place.path().join("model.kiln"), "--quiet", "--json"];
    kilnc([invoked.as_slice(), &more.iter().map(Into::into).collect::<Vec<_>>()].concat()).expect(0).json()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn vector(place: &TempDir, text: &str) -> Vec<f32> {
    numbers(&run(place, &["--text", text])[0]["embedding"])
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

fn refused(checkpoint: &Path) -> String {
    let place = place();
    let out = place.path().join("model.kiln");
    let ran = kilnc(arguments!["build", checkpoint, "--target", "tract", "-o", out, "--quiet"]).expect(2);
    assert!(!out.exists());
    ran.stderr
}

/// How far the outputs of a checkpoint are from the golden ones in its folder.
fn off(checkpoint: &Path) -> f64 {
    let source = Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None };
    let model = build::load(&source).unwrap();
    assert_eq!(model.task, Task::SentenceSimilarity);
    let scheme = Scheme::new(&Target::Tract, Precision::Fp32);
    let graph = build::compile(model.graph(), &scheme, &mut Manager::default()).unwrap();
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&graph, &path, &|_| {}).unwrap();
    let mut engine = runtime::open(Runtime::Tract, &path, Options { threads: 1 }).unwrap();
    let golden = Golden::read(&checkpoint.join("golden.safetensors")).unwrap();
    golden.compare(&mut *engine).unwrap().max_abs
}

#[test]
fn a_pooling_by_its_name_gives_the_vectors_of_its_switch() {
    let modes = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"];
    for mode in modes {
        let said = json!({"embedding_dimension": 16, "pooling_mode": mode, "include_prompt": true});
        let dir = with(&format!("sentence/{}", mode.replace('_', "-")), &[("1_Pooling/config.json", said)]);
        assert!(off(dir.path()) < 1e-4, "{mode}");
    }
    let all = json!({"embedding_dimension": 16, "pooling_mode": modes});
    assert!(off(with("sentence/all-modes-dense", &[("1_Pooling/config.json", all)]).path()) < 1e-4);
}

#[test]
fn several_poolings_are_concatenated_in_their_order() {
    let of = |modes: Value| {
        let said = json!({"embedding_dimension": 16, "pooling_mode": modes});
        vector(&built(with("sentence/mean", &[("1_Pooling/config.json", said)]).path()), TEXT)
    };
    let [max, cls] = [of(json!("max")), of(json!(["cls"]))];
    assert!(!close(&max, &cls));
    assert!(close(&of(json!(["max", "cls", "max"])), &[max.as_slice(), &cls, &max].concat()));
}

#[test]
fn a_pooling_that_is_not_known_is_refused_by_name() {
    let said = |config: Value| refused(with("sentence/mean", &[("1_Pooling/config.json", config)]).path());
    let expected = "error: the `pooling_mode` `attention` is not known\n  in modules.json: 1_Pooling\n";
    assert!(said(json!({"pooling_mode": ["mean", "attention"]})).starts_with(expected));
    let expected = "error: the option `pooling_mode_std` is not known, and it is true\n  in modules.json: 1_Pooling";
    assert!(said(json!({"pooling_mode_mean_tokens": true, "pooling_mode_std": true})).starts_with(expected));
    let expected = "error: no mode of pooling is set\n  in modules.json: 1_Pooling";
    assert!(said(json!({"pooling_mode": []})).starts_with(expected));
}

#[test]
fn the_limit_of_a_text_is_the_tokenizers() {
    let length = |files: &[(&str, Value)]| manifest(&built(with("sentence/mean", files).path()))["max_length"].clone();
    let none = ("sentence_bert_config.json", json!({"transformer_task": "feature-extraction"}));
    let limit =
        |n: Value| ("tokenizer_config.json", json!({"tokenizer_class": "BertTokenizer", "model_max_length": n}));
    assert_eq!(length(&[none.clone(), limit(json!(16))]), 16);
    assert_eq!(length(&[none.clone(), limit(json!(1e30))]), 48);
    // The limit of sentence-transformers overrides, and neither exceeds the positions.
    assert_eq!(length(&[limit(json!(16))]), 32);
    assert_eq!(length(&[none.clone(), limit(json!(4096))]), 48);
    let of_class = ("sentence_bert_config.json", json!({"processor_kwargs": {"model_max_length": 12}}));
    assert_eq!(length(&[of_class, limit(json!(16))]), 12);

    let dir = with("sentence/mean", &[none.clone(), limit(json!(8))]);
    let short = built(dir.path());
    let long = TEXT.repeat(4);
    let cut = run(&short, &["--text", &long, "--truncate"]);
    // Eight tokens: two around the text, and its first six words.
    assert!(close(&numbers(&cut[0]["embedding"]), &vector(&short, TEXT)), "{cut}");
    for wrong in [json!(0), json!("16"), json!(-4), json!(2.5)] {
        let said = refused(with("sentence/mean", &[none.clone(), limit(wrong.clone())]).path());
        let expected = format!("error: tokenizer_config.json: model_max_length: {wrong} is no count of tokens\n");
        assert!(said.starts_with(&expected.replace('"', "\\\"")) || said.starts_with(&expected), "{said}");
    }
}

#[test]
fn the_default_prompt_is_put_before_every_text() {
    let plain = built(&fixture("sentence/mean"));
    let prompts = json!({"query": "a game: ", "passage": "mail: "});
    let saying = |name: Value| json!({"prompts": prompts, "default_prompt_name": name});
    let dir = with("sentence/mean", &[(MODEL, saying(json!("query")))]);
    let invoked = built(dir.path());
    assert_eq!(manifest(&invoked)["prompt"], json!({"name": "query", "text": "a game: "}));
    let expected = vector(&plain, &format!("a game: {TEXT}"));
    assert!(close(&vector(&invoked, TEXT), &expected));
    assert!(!close(&vector(&plain, TEXT), &expected));
    let inspected = kilnc(arguments!["inspect", invoked.path().join("model.kiln"), "--quiet"]).expect(0).stdout;
    assert!(inspected.contains("\nprompt   `a game: ` before every text (query)\n"), "{inspected}");

    let none = built(with("sentence/mean", &[(MODEL, saying(Value::Null))]).path());
    assert_eq!(manifest(&none).get("prompt"), None);
    assert!(close(&vector(&none, TEXT), &vector(&plain, TEXT)));
    let said = refused(with("sentence/mean", &[(MODEL, saying(json!("quary")))]).path());
    let expected =
        "error: there is no prompt `quary` in `prompts`\n  in config_sentence_transformers.json: default_prompt_name\n";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn a_prompt_is_in_every_window_and_before_the_first_of_a_pair_alone() {
    let saying = json!({"prompts": {"query": "a game: "}, "default_prompt_name": "query"});
    let invoked = built(with("sentence/cls", &[(MODEL, saying.clone())]).path());
    let long = "mail and mail ".repeat(9);
    // Eight tokens, five of them around the text; the first token of each window attends to the prompt and three words.
    let windows = run(&invoked, &["--text", &long, "--window", "8", "--stride", "0"]);
    let plain = built(&fixture("sentence/cls"));
    let one = vector(&plain, "a game: mail and mail");
    assert_eq!(windows[0]["windows"], 9);
    assert!(close(&numbers(&windows[0]["embedding"]), &one), "{windows}");

    let cross = json!({"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity",
                       "prompts": {"query": "a game: "}, "default_prompt_name": "query"});
    let modules = json!([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]);
    let task = json!({"transformer_task": "sequence-classification"});
    let files = [("modules.json", modules), (MODEL, cross), ("sentence_bert_config.json", task)];
    let invoked = built(with("sentence/reranker", &files).path());
    let plain = built(&fixture("sentence/reranker-identity"));
    let _ = plain;
    let with_prompt = run(&invoked, &["--text", "mail", "--pair", "server"]);
    let mut written = files.clone();
    written[1].1 = json!({"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"});
    let without = built(with("sentence/reranker", &written).path());
    let expected = run(&without, &["--text", "a game: mail", "--pair", "server"]);
    assert!(close(&numbers(&with_prompt[0]["numbers"]), &numbers(&expected[0]["numbers"])), "{with_prompt} {expected}");
}

/// `token_embeddings` of a text that is short enough to be read at once.
fn token_vectors(place: &TempDir, text: &str) -> Vec<Vec<f32>> {
    let bundle = kilnc::bundle::Bundle::open(&place.path().join("model.kiln")).unwrap();
    let entry = bundle.manifest.engines[0].clone();
    let mut engine = runtime::open(Runtime::Tract, &bundle.engine(&entry).unwrap(), Options { threads: 1 }).unwrap();
    let outputs = engine.run(&bundle.encoder().unwrap().encode(&[text]).unwrap()).unwrap();
    let (_, tensor) = outputs.iter().find(|(name, _)| name == "token_embeddings").unwrap();
    let Elements::F32(values) = &tensor.elements else { panic!() };
    values.chunks(*tensor.shape.last().unwrap()).map(<[f32]>::to_vec).collect()
}

#[test]
fn the_tokens_of_a_prompt_are_left_out_of_the_pooling_on_request() {
    let saying = json!({"prompts": {"query": "a game: "}, "default_prompt_name": "query"});
    // `[CLS]`, `a`, `game`, `:`; what follows is the text's.
    const PROMPT: usize = 4;
    for mode in ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] {
        let pooling = json!({"pooling_mode": mode, "include_prompt": false});
        let dir = with("sentence/mean", &[(MODEL, saying.clone()), ("1_Pooling/config.json", pooling.clone())]);
        let invoked = built(dir.path());
        let tokens = token_vectors(&invoked, TEXT);
        let rest = &tokens[PROMPT..];
        let (count, width) = (rest.len() as f32, rest[0].len());
        let sum = |weight: &dyn Fn(usize) -> f32| -> Vec<f32> {
            (0..width).map(|i| rest.iter().enumerate().map(|(at, row)| row[i] * weight(at + PROMPT)).sum()).collect()
        };
        let places = (PROMPT..tokens.len()).map(|at| at as f32 + 1.0).sum::<f32>();
        let expected = match mode {
            "cls" => rest[0].clone(),
            "lasttoken" => rest[rest.len() - 1].clone(),
            "max" => (0..width).map(|i| rest.iter().map(|row| row[i]).fold(f32::MIN, f32::max)).collect(),
            "mean" => sum(&|_| 1.0 / count),
            "mean_sqrt_len_tokens" => sum(&|_| 1.0 / count.sqrt()),
            _ => sum(&|at| (at as f32 + 1.0) / places),
        };
        assert!(close(&vector(&invoked, TEXT), &expected), "{mode}");

        // Without a prompt there is nothing to leave out.
        let dir = with("sentence/mean", &[("1_Pooling/config.json", pooling)]);
        let (plain, included) = (built(dir.path()), json!({"pooling_mode": mode}));
        let same = built(with("sentence/mean", &[("1_Pooling/config.json", included)]).path());
        assert!(close(&vector(&plain, TEXT), &vector(&same, TEXT)), "{mode}");
    }
}

#[test]
fn a_vector_is_cut_after_all_modules() {
    let whole = vector(&built(&fixture("sentence/mean-normalize")), TEXT);
    let cut = |dim: Value| with("sentence/mean-normalize", &[(MODEL, json!({"truncate_dim": dim}))]);
    let eight = built(cut(json!(8)).path());
    assert!(close(&vector(&eight, TEXT), &whole[..8]));
    assert_eq!(manifest(&eight)["pooling"], json!({"modes": ["mean"], "normalized": true, "truncated": 8}));
    let summary = kilnc(arguments!["inspect", eight.path().join("model.kiln"), "--quiet"]).expect(0).stdout;
    assert!(summary.contains("\nvector   mean, of length 1, its first 8 numbers\n"), "{summary}");
    for all in [json!(16), json!(400), Value::Null] {
        assert!(close(&vector(&built(cut(all).path()), TEXT), &whole));
    }
    let said = refused(cut(json!(0)).path());
    let expected = "error: a vector cannot be cut to 0 numbers\n  in config_sentence_transformers.json: truncate_dim\n";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn vectors_are_compared_by_the_models_similarity() {
    let named = |name: &str| with("sentence/mean", &[(MODEL, json!({"similarity_fn_name": name}))]);
    let (one, other) = (TEXT, "read the web");
    let plain = built(&fixture("sentence/mean"));
    let (a, b) = (vector(&plain, one), vector(&plain, other));
    let sum = |of: &dyn Fn(f32, f32) -> f32| a.iter().zip(&b).map(|(a, b)| of(*a, *b)).sum::<f32>();
    let length = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    let expected = [
        ("cosine", sum(&|a, b| a * b) / length(&a) / length(&b)),
        ("dot", sum(&|a, b| a * b)),
        ("euclidean", -sum(&|a, b| (a - b).powi(2)).sqrt()),
        ("manhattan", -sum(&|a, b| (a - b).abs())),
    ];
    let data = plain.path().join("pairs.jsonl");
    let rows = [(one, other, 1.0), (one, one, 5.0), (other, "a game is slow", 2.0), ("mail", "a mail", 4.0)];
    let lines = rows.map(|(text, pair, score)| json!({"text": text, "pair": pair, "score": score}).to_string() + "\n");
    fs::write(&data, lines.concat()).unwrap();
    // The scores that go with the pairs, by each way of comparing.
    let vectors = rows.map(|(text, pair, _)| [text, pair].map(|text| vector(&plain, text)));
    let alike = |name: &str| {
        vectors.each_ref().map(|[a, b]| {
            let sum = |of: &dyn Fn(f32, f32) -> f32| a.iter().zip(b).map(|(a, b)| f64::from(of(*a, *b))).sum::<f64>();
            match name {
                "dot" => sum(&|a, b| a * b),
                "euclidean" => -sum(&|a, b| (a - b) * (a - b)).sqrt(),
                "manhattan" => -sum(&|a, b| (a - b).abs()),
                _ => sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt(),
            }
        })
    };
    let scored = |place: &TempDir, more: &[&str]| {
        let invoked = arguments!["eval", place.path().join("model.kiln"), "--data", data, "--json", "--quiet"];
        let summary = kilnc([invoked.as_slice(), &more.iter().map(Into::into).collect::<Vec<_>>()].concat()).expect(0);
        summary.json()[0]["pearson"].as_f64().unwrap()
    };
    let mut pearsons = Vec::new();
    for (name, expected) in expected {
        let bundle = built(named(name).path());
        let score = |more: &[&str]| {
            let invoked = [["--text", one, "--pair", other].as_slice(), more].concat();
            run(&bundle, &invoked)[0]["score"].as_f64().unwrap() as f32
        };
        assert!((score(&[]) - expected).abs() < 1e-4, "{name}: {} {expected}", score(&[]));
        let written =
            run(&plain, &["--text", one, "--pair", other, "--similarity", name])[0]["score"].as_f64().unwrap();
        assert!((written as f32 - expected).abs() < 1e-4, "{name}");
        let said = manifest(&bundle).get("pipeline").map(|pipeline| pipeline["similarity"].clone());
        assert_eq!(said, (name != "cosine").then(|| json!(name)));
        let right = pearson(&alike(name), &rows.map(|(_, _, score)| score));
        pearsons.push(right);
        // The model's similarity, and the same where the model sets none or another.
        for (place, more) in
            [(&bundle, [].as_slice()), (&plain, &["--similarity", name]), (&bundle, &["--similarity", name])]
        {
            assert!((scored(place, more) - right).abs() < 1e-5, "{name}: {} {right}", scored(place, more));
        }
    }
    assert!(
        pearsons.iter().enumerate().all(|(i, a)| pearsons[..i].iter().all(|b| (a - b).abs() > 1e-4)),
        "{pearsons:?}"
    );
    let said = refused(named("tanimoto").path());
    let expected = "error: unknown similarity `tanimoto`; known: cosine, dot, euclidean, manhattan\n  \
                    in config_sentence_transformers.json: similarity_fn_name\n";
    assert!(said.starts_with(expected), "{said}");
}

/// `Σ(a − ā)(b − b̄) / √(Σ(a − ā)² · Σ(b − b̄)²)`
fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let off = |side: &[f64]| {
        let mean = side.iter().sum::<f64>() / side.len() as f64;
        side.iter().map(|x| x - mean).collect::<Vec<_>>()
    };
    let (a, b) = (off(a), off(b));
    let sum = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    sum(&a, &b) / (sum(&a, &a) * sum(&b, &b)).sqrt()
}

/// A cross-encoder as version 5.4 saves it, with that activation.
fn cross_encoder(activation: &str) -> TempDir {
    let modules = json!([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]);
    let task = json!({
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    });
    let model = json!({"model_type": "CrossEncoder", "activation_fn": activation, "prompts": {}});
    let files = [("modules.json", modules), (MODEL, model), ("sentence_bert_config.json", task)];
    let dir = with("sentence/reranker", &files);
    edit_config(dir.path(), |config| drop(config.as_object_mut().unwrap().remove("sentence_transformers")));
    dir
}

fn edit_config(dir: &Path, change: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_cross_encoder_scores_by_the_activation_of_its_own_file() {
    let invoked = ["--text", "a mail server", "--pair", "read and send mail"];
    let [identity, sigmoid] = ["torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"]
        .map(|class| run(&built(cross_encoder(class).path()), &invoked)[0].clone());
    let logit = identity["numbers"][0].as_f64().unwrap();
    let score = sigmoid["score"].as_f64().unwrap();
    assert!((1.0 / (1.0 + (-logit).exp()) - score).abs() < 1e-5, "{logit} {score}");
    let said = refused(cross_encoder("torch.nn.modules.activation.Tanh").path());
    let expected = "error: the activation `torch.nn.modules.activation.Tanh` of a cross-encoder is not known\n  \
                    in config_sentence_transformers.json: activation_fn\n";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn modules_decide_the_task_of_any_class() {
    let usual = vector(&built(&fixture("sentence/mean")), TEXT);
    for class in ["BertForMaskedLM", "BertForSequenceClassification", "BertForNextSentencePrediction"] {
        let dir = copied("sentence/mean");
        edit(&dir.path().join("config.json"), "\"BertModel\"", &format!("{class:?}"));
        let place = built(dir.path());
        assert_eq!(manifest(&place)["task"], "sentence-similarity", "{class}");
        assert!(close(&vector(&place, TEXT), &usual), "{class}");
    }
}

/// Qwen3-Embedding's last token, and EmbeddingGemma's attention to both sides, with windows.
#[test]
fn decoders_give_the_vectors_of_sentence_transformers_with_each_prompt() {
    for name in ["qwen3-embedding", "embeddinggemma"] {
        let checkpoint = fixture("sentence").join(name);
        assert!(off(&checkpoint) < 1e-4, "{name}");
        let place = built(&checkpoint);
        for line in fs::read_to_string(checkpoint.join("prompted.jsonl")).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let mut asked = vec!["--text", line["text"].as_str().unwrap()];
            asked.extend(line["prompt"].as_str().map(|prompt| ["--prompt-name", prompt]).into_iter().flatten());
            let found = numbers(&run(&place, &asked)[0]["embedding"]);
            assert!(close(&found, &numbers(&line["embedding"])), "{name}: {}", line["prompt"]);
        }
    }
}

#[test]
fn a_prompt_is_one_of_the_models() {
    let place = built(&fixture("sentence/qwen3-embedding"));
    let refused = |bundle: &Path, more: &[&str], code| {
        let more: Vec<_> = more.iter().map(Into::into).collect();
        kilnc([arguments!["run", bundle, "--quiet", "--text", TEXT].as_slice(), &more].concat()).expect(code).stderr
    };
    let said = refused(&place.path().join("model.kiln"), &["--prompt-name", "quary"], 2);
    assert!(said.starts_with("error: the model has no prompt `quary`\n"), "{said}");
    assert!(said.ends_with("hint: it has: document, query\n"), "{said}");
    let plain = built(&fixture("sentence/mean"));
    let said = refused(&plain.path().join("model.kiln"), &["--prompt-name", "query"], 2);
    assert!(said.contains("hint: its checkpoint names no prompts, or leaves them out of its pooling"), "{said}");
    let data = place.path().join("pairs.jsonl");
    fs::write(&data, "{\"text\": \"a game\", \"pair\": \"a mail server\", \"score\": 0.5}\n").unwrap();
    let bundle = place.path().join("model.kiln");
    kilnc(arguments!["eval", bundle, "--data", data, "--prompt-name", "query", "--quiet"]).expect(0);
    kilnc(arguments!["eval", bundle, "--data", data, "--prompt-name", "q", "--quiet"]).expect(2);
}

#[test]
fn rerankers_that_are_language_models_read_pairs_in_their_template() {
    let place = built(&fixture("sentence/reranker-logits"));
    let bundle = place.path().join("model.kiln");
    let said = kilnc(arguments!["run", bundle, "--quiet", "--text", TEXT]).expect(2).stderr;
    assert!(said.starts_with("error: the model scores pairs of texts, and there is one text\n"), "{said}");
    let pair = &manifest(&place)["pair_prompt"];
    assert_eq!(pair["before"], "[CLS] is this for that, in a web search: ");
    assert_eq!((&pair["between"], &pair["after"]), (&json!(" [SEP] "), &json!(" [SEP] game is")));
    let long = "mail ".repeat(64);
    let said = kilnc(arguments!["run", bundle, "--quiet", "--text", long, "--pair", TEXT]).expect(2).stderr;
    assert!(said.contains("the first text and what is around it have ") && said.contains("a window has 40"), "{said}");

    let changed = |file: &str, from: &str, to: &str| {
        let dir = copied("sentence/reranker-logits");
        edit(&dir.path().join(file), from, to);
        refused(dir.path())
    };
    let said = changed("chat_template.jinja", "{{ document }}", "{{ document | upper }}");
    let expected = "error: the chat template does not have query and document as they are, once and in this order\n";
    assert!(said.starts_with(expected), "{said}");
    assert!(changed("chat_template.jinja", "{{ document }}", "{{ document | trim }}").starts_with(expected));
    assert!(changed("chat_template.jinja", "{{ document }}", "{{ query }}").starts_with(expected));
    let said = changed("1_LogitScore/config.json", "90", "121");
    assert!(said.contains("has no index 121 along dimension 0"), "{said}");
    assert!(said.contains("modules.json: LogitScore: true_token_id, false_token_id"), "{said}");
    let said = changed("1_LogitScore/config.json", "95", "90");
    assert!(said.starts_with("error: both tokens are 90, so every score is 0\n"), "{said}");
    let said = changed("1_LogitScore/config.json", "causal_logits", "logits");
    assert!(said.starts_with("error: a LogitScore on `logits` is not built\n"), "{said}");
    let said = changed("sentence_bert_config.json", "\"flat\"", "\"auto\"");
    assert!(said.starts_with("error: messages of the format `auto` are not built\n"), "{said}");
    let said = changed("sentence_bert_config.json", "add_generation_prompt", "max_length");
    assert!(said.starts_with("error: the argument `max_length` is not built\n"), "{said}");
    let said = changed("sentence_bert_config.json", "text-generation", "feature-extraction");
    assert!(said.starts_with("error: a LogitScore needs a language model\n"), "{said}");
    let said = changed("modules.json", "cross_encoder.modules.logit_score.LogitScore", "models.Normalize");
    assert!(said.starts_with("error: texts as messages of a chat are not built\n"), "{said}");
}

#[test]
fn a_model_that_attends_to_both_sides_generates_no_text() {
    let place = place();
    let out = place.path().join("model.kiln");
    let checkpoint = fixture("sentence/embeddinggemma");
    let said =
        kilnc(arguments!["build", checkpoint, "--task", "text-generation", "-o", out, "--quiet"]).expect(2).stderr;
    assert!(said.contains("a model that attends to the tokens after generates no text"), "{said}");
    assert!(said.contains("in config.json: use_bidirectional_attention"), "{said}");
}

#[test]
fn modules_and_kinds_that_are_not_built_are_refused_by_name() {
    let classes = [
        "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
        "sentence_transformers.models.WordWeights",
        "sentence_transformers.sentence_transformer.modules.lstm.LSTM",
    ];
    for class in classes {
        let dir = copied("sentence/mean");
        edit(&dir.path().join("modules.json"), "sentence_transformers.models.Pooling", class);
        edit(&dir.path().join("config.json"), "\"BertModel\"", "\"BertForMaskedLM\"");
        let said = refused(dir.path());
        assert!(
            said.starts_with(&format!("error: the module `{class}` is not built\n  in modules.json: 1_Pooling\n")),
            "{said}"
        );
    }
    let said = refused(with("sentence/mean", &[(MODEL, json!({"model_type": "SparseEncoder"}))]).path());
    assert!(said.starts_with("error: a model of the kind `SparseEncoder` is not built\n"), "{said}");
    let of = |config: Value| refused(with("sentence/mean", &[("sentence_bert_config.json", config)]).path());
    let said = of(json!({"transformer_task": "fill-mask"}));
    assert!(said.starts_with("error: the task `fill-mask` is not built\n"), "{said}");
    let pooled = json!({"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
                        "module_output_name": "sentence_embedding"});
    assert!(of(pooled).starts_with("error: the encoder's `pooler_output` of `forward` as `sentence_embedding`"));
    let said = of(json!({"new_option": 3}));
    assert!(said.starts_with("error: the option `new_option` is not known, and it is 3\n"), "{said}");

    let dir = copied("sentence/all-modes-dense");
    edit(&dir.path().join("2_Dense/config.json"), "\"bias\"", "\"module_input_name\": \"token_embeddings\", \"bias\"");
    let said = refused(dir.path());
    assert!(said.starts_with("error: a Dense on `token_embeddings` is not built\n"), "{said}");
}

#[test]
fn texts_are_put_in_lower_case_by_the_encoders_setting() {
    let cased = json!({"tokenizer_class": "BertTokenizer", "do_lower_case": false});
    let of = |lower: bool| {
        let config = ("sentence_bert_config.json", json!({"max_seq_length": 32, "do_lower_case": lower}));
        built(with("sentence/mean", &[config, ("tokenizer_config.json", cased.clone())]).path())
    };
    let (lower, as_it_is) = (of(true), of(false));
    let shouted = TEXT.to_uppercase();
    assert!(close(&vector(&lower, &shouted), &vector(&lower, TEXT)));
    assert!(!close(&vector(&as_it_is, &shouted), &vector(&as_it_is, TEXT)));
    let tokenizer = fs::read_to_string(lower.path().join("model.kiln/tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_str(&tokenizer).unwrap();
    assert_eq!(tokenizer["normalizer"]["normalizers"][0], json!({"type": "Lowercase"}));
}

/// `truncation_side`: the end of a text is read, and windows are full at the end.
#[test]
fn texts_are_cut_on_the_tokenizers_side() {
    let config = json!({"tokenizer_class": "BertTokenizer", "truncation_side": "left", "model_max_length": 12});
    let left = built(with("sentence/mean", &[("tokenizer_config.json", config)]).path());
    let plain = built(&fixture("sentence/mean"));
    let long = format!("a game is slow {TEXT}");
    let cut = run(&left, &["--text", &long, "--window", "8", "--truncate"]);
    assert!(cut[0]["tokens_cut"].as_u64().unwrap() > 0, "{cut}");
    let kept: Vec<&str> = long.split(' ').collect();
    let ends = |count: usize| kept[kept.len() - count..].join(" ");
    let found = numbers(&cut[0]["embedding"]);
    assert!((1..kept.len()).any(|count| close(&found, &vector(&plain, &ends(count)))), "{cut}");
    let right = run(&plain, &["--text", &long, "--window", "8", "--truncate"]);
    assert!(!close(&found, &numbers(&right[0]["embedding"])));
    let tokenizer = fs::read_to_string(left.path().join("model.kiln/tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_str(&tokenizer).unwrap();
    assert_eq!(tokenizer["truncation"]["direction"], "Left");
    assert_eq!(tokenizer["truncation"]["max_length"], 12);
}

/// The files beside a tokenizer hold for the texts of an ONNX model as for those of a bundle.
#[test]
fn an_onnx_model_reads_texts_by_the_files_beside_its_tokenizer() {
    let said = json!({"prompts": {"query": "a game: "}, "default_prompt_name": "query", "similarity_fn_name": "dot"});
    let lower = json!({"max_seq_length": 12, "do_lower_case": true});
    let cased = json!({"tokenizer_class": "BertTokenizer", "do_lower_case": false});
    let files = [(MODEL, said), ("sentence_bert_config.json", lower), ("tokenizer_config.json", cased)];
    let dir = with("sentence/mean", &files);
    let bundle = built(dir.path());
    let model = bundle.path().join("model.onnx");
    kilnc(arguments!["export", dir.path(), "-o", model, "--quiet"]).expect(0);
    let shouted = "A MAIL server";
    for tokenizer in [dir.path().to_owned(), dir.path().join("tokenizer.json")] {
        let invoked = arguments!["run", model, "--task", "sentence-similarity", "--tokenizer", tokenizer, "--json"];
        let run = |more: &[&str]| {
            let all = [invoked.as_slice(), &more.iter().map(Into::into).collect::<Vec<_>>()].concat();
            kilnc(all).expect(0)
        };
        let ran = run(&["--text", shouted]);
        assert!(close(&numbers(&ran.json()[0]["embedding"]), &vector(&bundle, shouted)), "{}", ran.stdout);
        assert!(ran.stderr.contains("`a game: ` is put before every text"), "{}", ran.stderr);
        let pair = ["--text", shouted, "--pair", "the web"];
        let score = |summary: &Value| summary[0]["score"].as_f64().unwrap();
        assert!((score(&run(&pair).json()) - score(&self::run(&bundle, &pair))).abs() < 1e-4);
        let long = ["--text", &"a mail server ".repeat(9)];
        assert_eq!(run(&long).json()[0]["windows"], self::run(&bundle, &long)[0]["windows"]);
    }

    let texts = bundle.path().join("texts.txt");
    fs::write(&texts, format!("{shouted}\n{}\n", "a mail server ".repeat(9))).unwrap();
    let bench = |more: &[std::ffi::OsString]| {
        let invoked =
            arguments!["bench", "--seconds", "0.01", "--rounds", "1", "--threads", "1", "--texts", texts, "--json"];
        let ran = kilnc([invoked.as_slice(), more].concat()).expect(0);
        (ran.json()["texts"].clone(), ran.json()["engines"][0]["failed"].clone())
    };
    let (of_bundle, _) = bench(&arguments![bundle.path().join("model.kiln")]);
    for more in
        [arguments!["--tokenizer", dir.path()].to_vec(), arguments!["--tokenizer", dir.path(), "--tokenize"].to_vec()]
    {
        let (invoked, failed) = bench(&[arguments![model].as_slice(), &more].concat());
        assert_eq!((&invoked["tokens"], &invoked["longest"]), (&of_bundle["tokens"], &of_bundle["longest"]));
        assert!(failed.is_null(), "{failed}");
    }
    // An encoder in a separate folder has the settings of the folder around it; another model's has not.
    let around = tempfile::tempdir().unwrap();
    let encoder = around.path().join("0_Transformer");
    fs::create_dir(&encoder).unwrap();
    fs::copy(dir.path().join("tokenizer.json"), encoder.join("tokenizer.json")).unwrap();
    fs::copy(dir.path().join(MODEL), around.path().join(MODEL)).unwrap();
    for (path, prompted) in [("0_Transformer", true), ("", false)] {
        let modules =
            json!([{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.Transformer"}]);
        fs::write(around.path().join("modules.json"), modules.to_string()).unwrap();
        let invoked = arguments!["run", model, "--task", "sentence-similarity", "--tokenizer", encoder, "--text", "a"];
        assert_eq!(kilnc(invoked).expect(0).stderr.contains("is put before every text"), prompted);
        // The same from inside the folder.
        for tokenizer in ["tokenizer.json", "./tokenizer.json", "."] {
            let invoked =
                arguments!["run", model, "--task", "sentence-similarity", "--tokenizer", tokenizer, "--text", "a"];
            let ran = Ran::from(command(invoked).current_dir(&encoder).output().unwrap()).expect(0);
            assert_eq!(ran.stderr.contains("is put before every text"), prompted, "{tokenizer}");
        }
    }
    // A file of that name in the folder above may be another program's.
    fs::write(around.path().join("modules.json"), r#"{"modules": []}"#).unwrap();
    let other = around.path().join("mine");
    fs::rename(&encoder, &other).unwrap();
    let invoked = arguments!["run", model, "--task", "sentence-similarity", "--tokenizer", other, "--text", "a"];
    assert!(!kilnc(invoked).expect(0).stderr.contains("is put before every text"));
}

/// An adapter as sentence-transformers 5.4 and later saves it: with its own modules.
fn adapter(pooling: &Value, modules: &[&str]) -> TempDir {
    let dir = copied("adapters/lora-features");
    let module = |(i, class): (usize, &&str)| {
        let path = if i == 0 { String::new() } else { format!("{i}_{class}") };
        let file = class.to_lowercase();
        let kind = if i == 0 { "base.modules" } else { "sentence_transformer.modules" };
        json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.{kind}.{file}.{class}")})
    };
    fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    let modules: Vec<Value> = modules.iter().enumerate().map(module).collect();
    for (file, content) in [("modules.json", &json!(modules)), ("1_Pooling/config.json", pooling)] {
        fs::write(dir.path().join(file), content.to_string()).unwrap();
    }
    dir
}

/// The tensors of a golden file as numbers.
fn golden(path: &Path, name: &str) -> Vec<f32> {
    let tensors = kilnc::safetensors::read(path).unwrap();
    let (_, tensor) = tensors.iter().find(|(given, _)| given == name).unwrap();
    if tensor.dtype().is_float() {
        return tensor.to_f32s().unwrap().into_owned();
    }
    let bytes = tensor.evaluate().unwrap();
    bytes.as_bytes().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as f32).collect()
}

/// Compared with the hidden states of PyTorch and PEFT, pooled here.
#[test]
fn the_modules_that_an_adapter_was_saved_with_are_its_own() {
    let file = fixture("adapters/lora-features/golden.safetensors");
    let (states, mask) = (golden(&file, "out.last_hidden_state"), golden(&file, "in.attention_mask"));
    let texts: Vec<Vec<&[f32]>> = states.chunks(17 * 16).map(|text| text.chunks(16).collect()).collect();
    let mean = |text: &[&[f32]], mask: &[f32]| -> Vec<f32> {
        let sum = |i: usize| text.iter().zip(mask).map(|(token, counts)| token[i] * counts).sum::<f32>();
        (0..16).map(|i| sum(i) / mask.iter().sum::<f32>()).collect()
    };
    let unit = |vector: Vec<f32>| -> Vec<f32> {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.into_iter().map(|x| x / length).collect()
    };
    #[expect(clippy::type_complexity, reason = "a closure of closures, once")]
    let all = |of: &dyn Fn(&[&[f32]], &[f32]) -> Vec<f32>| -> Vec<f32> {
        texts.iter().zip(mask.chunks(17)).flat_map(|(text, mask)| of(text, mask)).collect()
    };
    let found = |dir: &Path, base: &Path| -> Vec<f32> {
        let adapters = vec![kilnc::front::hub::adapter::AdapterSource { dir: dir.to_owned(), scale: 1.0 }];
        let source = Source { checkpoint: base.to_owned(), adapters, combine: None, task: None };
        let model = build::load(&source).unwrap();
        assert_eq!(model.task, Task::SentenceSimilarity);
        let graph =
            build::compile(model.graph(), &Scheme::new(&Target::Tract, Precision::Fp32), &mut Manager::default());
        let place = place();
        let path = place.path().join("model.onnx");
        onnx::write(&graph.unwrap(), &path, &|_| {}).unwrap();
        let mut engine = runtime::open(Runtime::Tract, &path, Options { threads: 1 }).unwrap();
        let outputs = engine.run(Golden::read(&file).unwrap().inputs()).unwrap();
        match &outputs.iter().find(|(name, _)| name == "sentence_embedding").unwrap().1.elements {
            Elements::F32(numbers) => numbers.clone(),
            other => panic!("{other:?}"),
        }
    };
    let plain = ["Transformer", "Pooling"];
    let normal = ["Transformer", "Pooling", "Normalize"];
    let by_mean = all(&|text, mask| mean(text, mask));
    let cases = [
        (
            json!({"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": true}),
            &plain[..],
            by_mean.clone(),
        ),
        (json!({"word_embedding_dimension": 16, "pooling_mode_mean_tokens": true}), &plain, by_mean),
        (json!({"pooling_mode": "cls"}), &plain, all(&|text, _| text[0].to_vec())),
        (
            json!({"pooling_mode": ["mean", "cls"]}),
            &plain,
            all(&|text, mask| [mean(text, mask), text[0].to_vec()].concat()),
        ),
        (
            json!({"pooling_mode": ["lasttoken"]}),
            &normal,
            all(&|text, mask| unit(text[mask.iter().rposition(|counts| *counts == 1.0).unwrap()].to_vec())),
        ),
    ];
    // A base that is a plain encoder, and one that has its own modules.
    let base = fixture("families/bert/base");
    let other = copied("families/bert/base");
    let own = adapter(&json!({"pooling_mode": "max"}), &normal);
    for file in ["modules.json", "1_Pooling/config.json"] {
        fs::create_dir_all(other.path().join("1_Pooling")).unwrap();
        fs::copy(own.path().join(file), other.path().join(file)).unwrap();
    }
    for (pooling, modules, expected) in cases {
        let dir = adapter(&pooling, modules);
        for base in [&base, other.path()] {
            let found = found(dir.path(), base);
            assert!(close(&found, &expected), "{pooling}\n{found:?}\n{expected:?}");
        }
    }

    // What else was saved with it.
    let dir = adapter(&json!({"pooling_mode": "mean"}), &plain);
    let said = json!({"prompts": {"query": "a game: "}, "default_prompt_name": "query", "similarity_fn_name": "dot"});
    fs::write(dir.path().join(MODEL), said.to_string()).unwrap();
    fs::copy(fixture("tokenizers/unigram-roberta.json"), dir.path().join("tokenizer.json")).unwrap();
    let limit = json!({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 20});
    fs::write(dir.path().join("tokenizer_config.json"), limit.to_string()).unwrap();
    let place = place();
    let out = place.path().join("model.kiln");
    kilnc(arguments!["build", base, "--adapter", dir.path(), "--target", "tract", "-o", out, "--quiet"]).expect(0);
    let manifest = manifest(&place);
    assert_eq!(manifest["prompt"], json!({"name": "query", "text": "a game: "}));
    assert_eq!((&manifest["pipeline"]["similarity"], &manifest["max_length"]), (&json!("dot"), &json!(20)));
    let said = |pooling: Value, modules: &[&str]| {
        let dir = adapter(&pooling, modules);
        let invoked = arguments!["build", base, "--adapter", dir.path(), "--target", "tract", "-o", out, "--quiet"];
        kilnc(invoked).expect(2).stderr
    };
    let refused = said(json!({"pooling_mode": "median"}), &plain);
    assert!(refused.contains("`median`") && refused.contains("in modules.json: 1_Pooling"), "{refused}");
    let refused = said(json!({"pooling_mode": "mean"}), &["Transformer", "Pooling", "SpladePooling"]);
    assert!(refused.contains("SpladePooling` is not built"), "{refused}");
}

#[test]
fn a_bundle_has_the_tokenizer_that_its_users_get() {
    let dir = with(
        "sentence/mean",
        &[("tokenizer_config.json", json!({"tokenizer_class": "BertTokenizer", "do_lower_case": false}))],
    );
    let place = built(dir.path());
    let bundle = place.path().join("model.kiln");
    let tokenizer = |path: &Path| -> Value { serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() };
    let own = tokenizer(&bundle.join("tokenizer.json"));
    assert_eq!(own["normalizer"]["lowercase"], false);
    assert_eq!(tokenizer(&dir.path().join("tokenizer.json"))["normalizer"]["lowercase"], true);
    let sources: Vec<Value> = manifest(&place)["sources"].as_array().unwrap().clone();
    assert!(sources.iter().any(|file| file["path"] == "tokenizer_config.json"), "{sources:?}");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.sentence.is_some());
}
