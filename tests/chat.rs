//! Chat templates, compared with what `transformers` makes of them (`tests/fixtures/chat/make.py`), their limits, and
//! `kilnc run --chat`.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{Ran, command, copied, copy_folder, fixture, kilnc, place};
use kilnc::bundle::chat_templates;
use kilnc::error::Result;
use kilnc::runtime::TextEncoder;
use kilnc::runtime::chat::{Chat, ChatTemplate, Clock};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;

/// 2024-08-01, as make.py has it.
const NOW: Clock = Clock::At(1_722_470_400);

/// The fixture. Chats keep their text, in which the order of keys counts.
#[derive(Deserialize)]
struct Rendered {
    chats: Vec<Case>,
    x: Box<RawValue>,
    expressions: Vec<Expression>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    chat: Box<RawValue>,
    text: Option<String>,
    ids: Option<Vec<u32>>,
    raised: Option<String>,
}

#[derive(Deserialize)]
struct Expression {
    template: String,
    text: String,
}

fn rendered() -> Rendered {
    serde_json::from_str(&fs::read_to_string(fixture("chat/rendered.json")).unwrap()).unwrap()
}

fn template(dir: &Path, text: &str) -> ChatTemplate {
    fs::write(dir.join("chat_template.jinja"), text).unwrap();
    let asked = Chat::parse(r#"[{"role": "user", "content": ""}]"#, "chat.json").unwrap();
    chat_templates(dir).unwrap().of_chat(&asked).unwrap().with_clock(NOW)
}

fn render(text: &str, chat: &str) -> Result<String> {
    let template = ChatTemplate::parse(text, "chat_template.jinja", Vec::new())?.with_clock(NOW);
    template.render(&Chat::parse(chat, "chat.json")?)
}

const ASKED: &str = r#"[{"role": "user", "content": "What is a kiln?"}]"#;

#[test]
fn chats_become_the_text_and_the_tokens_of_transformers() {
    let copy = copied("decoders/gpt2/lm");
    let dir = copy.path();
    let encoder = TextEncoder::open(&dir.join("tokenizer.json"), 1024).unwrap();
    let cases = rendered().chats;
    assert!(cases.iter().any(|case| case.raised.is_some()));
    for (number, case) in cases.iter().enumerate() {
        let text = fs::read_to_string(fixture(&format!("chat/{}.jinja", case.template))).unwrap();
        let chat = Chat::parse(case.chat.get(), "chat.json").unwrap();
        let name = format!("case {number}: {}", case.template);
        match (template(dir, &text).render(&chat), &case.raised) {
            (Ok(found), None) => {
                assert_eq!(Some(&found), case.text.as_ref(), "{name}");
                assert_eq!(encoder.plain_ids(&[&found]).unwrap().first(), case.ids.as_ref(), "{name}");
            }
            (Err(error), Some(raised)) => {
                assert_eq!(error.message(), format!("the chat template refuses the messages: {raised}"), "{name}");
            }
            (found, raised) => panic!("{name}: {found:?}, {raised:?}"),
        }
    }
}

#[test]
fn templates_print_the_values_of_python() {
    let copy = copied("decoders/gpt2/lm");
    let Rendered { x, expressions, .. } = rendered();
    let messages = r#"[{"role": "user", "content": "  What is a kiln? "}]"#;
    let with_x = Chat::parse(&format!(r#"{{"messages": {messages}, "x": {x}}}"#), "chat.json").unwrap();
    let without = Chat::parse(messages, "chat.json").unwrap();
    let mut differing = Vec::new();
    for Expression { template: text, text: expected } in expressions {
        let template = template(copy.path(), &text);
        let found = match template.render(&with_x) {
            Err(e) if e.message().contains("does not read") => template.render(&without),
            found => found,
        };
        match found {
            Ok(found) if found == expected => {}
            found => differing.push(format!("{text}\n  {expected:?}\n  {found:?}")),
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn a_template_that_fails_is_named_with_its_line() {
    let said = |text: &str| render(text, ASKED).unwrap_err().to_string();
    for (text, expected) in [
        ("a\n{% if %}", "the chat template fails: syntax error: unexpected end of block"),
        ("a\n{{ x", "the chat template fails: syntax error: "),
        ("{% for m in messages %}", "the chat template fails: syntax error: unexpected end of input"),
        ("a\n\n{{ messages[0].content.nothing.more }}", "the chat template fails: undefined value"),
        ("{{ 'a'.no_method() }}", "the chat template fails: unknown method"),
        ("{{ none_such(1) }}", "the chat template fails: unknown function"),
        ("{{ messages | no_filter }}", "the chat template fails: unknown filter"),
        ("{{ 'a' + 1 }}", "the chat template fails: invalid operation"),
        ("{{ '%d' % 1 }}", "tried to use % operator on unsupported types"),
        ("{{ strftime_now('%') }}", "the chat template fails: invalid operation: strftime_now: "),
        ("{{ messages | tojson(indent=[]) }}", "tojson: indent is neither a number nor a text"),
        ("{{ nothing | tojson }}", "tojson: a value of kind undefined is not JSON"),
        ("{% include 'other' %}", "the chat template fails: template not found"),
        ("\n{{ raise_exception('No.\n\u{1b}[2J') }}", "the chat template refuses the messages: No.\\n\\u{1b}[2J"),
    ] {
        let found = said(text);
        assert!(found.contains(expected) && found.contains("\n  in chat_template.jinja line "), "{text}: {found}");
    }
    assert!(said("a\n\n{{ messages[0].content.nothing.more }}").ends_with("line 3"));
    let raised = said("{% macro m() %}\n{{ raise_exception('deep') }}\n{% endmacro %}\n{{ m() }}");
    assert!(raised.contains("refuses the messages: deep\n  in chat_template.jinja line 2"), "{raised}");
}

#[test]
fn a_template_ends_within_its_limits() {
    let said = |text: &str| render(text, ASKED).unwrap_err().to_string();
    for text in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(t='ab') %}{% for i in range(64) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
        "{{ 'ab' * 1000000000 }}",
        "{{ [[1]] | tojson(indent=1000000000) }}",
        "{{ ('x' * 1000000).replace('x', 'x' * 1000000) }}",
    ] {
        let found = said(text);
        assert!(found.contains("the chat template does not end within 2000000 steps"), "{text}: {found}");
        assert!(found.contains("chat_template.jinja line 1"), "{found}");
    }
    let long = said("{% for i in range(1100) %}{{ 'x' * 1000 }}{% endfor %}");
    assert!(long.contains("the chat template makes a text of more than 1048576 bytes"), "{long}");
    let deep = said("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    assert!(deep.contains("recursion limit exceeded"), "{deep}");
    // Values inside of values are dropped one inside the other.
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    assert_eq!(render(&format!("{nested}done"), ASKED).unwrap(), "done");
    let found = said(&format!("{nested}{{{{ ns.x | tojson }}}}"));
    assert!(found.contains("tojson: values nest deeper than 128"), "{found}");
}

#[test]
fn what_a_template_does_not_read_is_refused() {
    let chat = |more: &str| format!(r#"{{"messages": {ASKED}, {more}}}"#);
    for (more, name) in [
        (r#""tools": [{"type": "function"}]"#, "tools"),
        (r#""documents": [{"text": "a"}]"#, "documents"),
        (r#""temperature": 0.5"#, "temperature"),
    ] {
        let error = render("{{ messages[0].content }}", &chat(more)).unwrap_err();
        assert_eq!(error.message(), format!("there is `{name}`, which the chat template does not read"));
        assert!(render(&format!("{{{{ {name} }}}}"), &chat(more)).is_ok());
    }
    assert_eq!(
        render("{{ tools is none }} {{ id is defined }}", &chat(r#""tools": null, "id": 7"#)).unwrap(),
        "True False"
    );
}

#[test]
fn rendered_texts_get_no_tokens_around_them() {
    let encoder = TextEncoder::open(&fixture("tiny-bert/tokenizer.json"), 64).unwrap();
    let around = encoder.ids(&["a kiln".into()]).unwrap().remove(0);
    let plain = encoder.plain_ids(&["a kiln"]).unwrap().remove(0);
    assert_eq!(around[1..around.len() - 1], plain);
}

/// A template short enough for the 64 positions of the fixture's model.
const SHORT: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}\
                     {% if add_generation_prompt %}a:{% endif %}";

/// A bundle of the decoder with these files beside its tokenizer, and what was said while it was built.
fn bundle(targets: &[&str], files: &[(&str, &str)]) -> (TempDir, PathBuf, String) {
    let place = place();
    let (checkpoint, out) = (place.path().join("lm"), place.path().join("model.kiln"));
    copy_folder(&fixture("decoders/gpt2/lm"), &checkpoint);
    for (name, text) in files {
        let path = checkpoint.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let targets: Vec<OsString> = targets.iter().flat_map(|target| ["--target", target]).map(Into::into).collect();
    let ran = kilnc([arguments!["build", checkpoint, "-o", out].as_slice(), &targets].concat()).expect(0);
    (place, out, ran.stderr)
}

fn run(bundle: &Path, more: &[&str]) -> Ran {
    let more: Vec<OsString> = more.iter().map(Into::into).collect();
    kilnc([arguments!["run", bundle, "--quiet", "--max-new-tokens", "6"].as_slice(), &more].concat())
}

fn refused(bundle: &Path, more: &[&str]) -> String {
    let ran = run(bundle, more).expect(2);
    assert_eq!(ran.stdout, "");
    ran.stderr
}

/// A file in the folder of a bundle.
fn file(place: &TempDir, name: &str, text: &str) -> String {
    let path = place.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_chat_is_continued_as_its_text_is() {
    let (place, out, _) = bundle(&["tract"], &[("chat_template.jinja", SHORT)]);
    let chat = file(&place, "chat.json", ASKED);
    let text = "u:What is a kiln?\na:";
    let plain = &run(&out, &["--prompt", text, "--json"]).expect(0).json()[0];
    let reply = &run(&out, &["--chat", &chat, "--json"]).expect(0).json()[0];
    assert_eq!((&reply["role"], &reply["content"]), (&json!("assistant"), &plain["text"]));
    for field in ["prompt", "tokens", "finish_reason", "prompt_tokens"] {
        assert_eq!(reply[field], plain[field], "{field}");
    }
    assert!(reply.get("text").is_none() && plain.get("role").is_none());
    for how in ["--stream", "--no-stream"] {
        let ran = run(&out, &["--chat", &chat, how]).expect(0);
        assert_eq!(ran.stdout, format!("{}\n", plain["text"].as_str().unwrap()), "{how}");
    }
    // A message of the system, a chat of standard input, and several chats, each after its last message.
    let system = &run(&out, &["--chat", &chat, "--system", "Be kind.", "--json"]).expect(0).json()[0];
    assert_eq!(system["prompt"], "s:Be kind.\nu:What is a kiln?\na:");
    let mut child = command(arguments!["run", out, "--quiet", "--max-new-tokens", "6", "--chat", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(ASKED.as_bytes()).unwrap();
    let piped = Ran::from(child.wait_with_output().unwrap()).expect(0).json();
    assert_eq!(piped[0]["tokens"], plain["tokens"]);
    let both = run(&out, &["--chat", &chat, "--chat", &chat]).expect(0).stdout;
    let one = format!("> What is a kiln?\n{}\n", plain["text"].as_str().unwrap());
    assert_eq!(both, format!("{one}\n{one}"));
    // JSON lines of chats among those of prompts.
    let lines = [
        json!({"id": 1, "messages": serde_json::from_str::<Value>(ASKED).unwrap()}),
        json!({"id": 2, "prompt": text}),
        json!({"id": 3, "messages": [{"content": "no role"}]}),
        json!({"id": 4, "prompt": text, "messages": []}),
    ];
    let lines = file(&place, "chats.jsonl", &lines.map(|line| format!("{line}\n")).concat());
    let said = refused(&out, &["--jsonl", &lines]);
    assert!(said.contains("the message has no `role`") && said.contains("in chats.jsonl line 3"), "{said}");
    let found = run(&out, &["--jsonl", &lines, "--on-error", "empty"]).expect(0).stdout;
    let found: Vec<Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&found[0]["content"], &found[0]["id"]), (&plain["text"], &json!(1)));
    assert_eq!((&found[1]["text"], &found[1]["tokens"]), (&plain["text"], &found[0]["tokens"]));
    assert!(found[2]["error"].as_str().unwrap().contains("the message has no `role`"));
    assert!(found[3]["error"].as_str().unwrap().contains("there are both `prompt` and `messages`"));
}

#[test]
fn a_lone_onnx_file_takes_the_template_beside_its_tokenizer() {
    let (place, out, _) = bundle(&["tract"], &[("chat_template.jinja", SHORT)]);
    let model = place.path().join("model.onnx");
    kilnc(arguments!["export", place.path().join("lm"), "-o", model, "--quiet"]).expect(0);
    let chat = file(&place, "chat.json", ASKED);
    let tokenizer = place.path().join("lm");
    let tokenizer = tokenizer.to_str().unwrap();
    let lone = run(&model, &["--tokenizer", tokenizer, "--chat", &chat, "--json"]).expect(0).json();
    let bundled = run(&out, &["--chat", &chat, "--json"]).expect(0).json();
    assert_eq!((&lone[0]["content"], &lone[0]["tokens"]), (&bundled[0]["content"], &bundled[0]["tokens"]));
}

#[test]
fn a_bundle_keeps_every_template_and_exports_it() {
    let files =
        [("chat_template.jinja", SHORT), ("additional_chat_templates/tool_use.jinja", "tools: {{ tools | tojson }}")];
    let (place, out, _) = bundle(&["ort-cpu", "tract"], &files);
    let hub = place.path().join("hub");
    kilnc(arguments!["bundle", "export", out, "--layout", "hub", "-o", hub, "--quiet"]).expect(0);
    for (name, text) in files {
        for folder in [&out.join("hub"), &hub] {
            assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), text);
        }
    }
    let tools = r#"[{"name": "b", "a": 1}]"#;
    let chat = file(&place, "chat.json", &format!(r#"{{"messages": {ASKED}, "tools": {tools}}}"#));
    let reply = run(&out, &["--chat", &chat, "--json"]).expect(0).json();
    assert_eq!(reply[0]["prompt"], format!("tools: {tools}"));
}

#[test]
fn chats_that_cannot_be_replied_to_are_refused() {
    let (place, out, _) = bundle(&["tract"], &[]);
    let chat = file(&place, "chat.json", ASKED);
    let said = refused(&out, &["--chat", &chat]);
    assert!(said.contains("the model has no chat template\n  in chat.json"), "{said}");
    assert!(said.contains("--prompt continues a text"), "{said}");
    let raises = "{{ raise_exception('Roles must alternate') }}";
    let (place, out, built) = bundle(&["tract"], &[("chat_template.jinja", raises)]);
    assert!(!built.contains("chat template"), "{built}");
    let chat = file(&place, "chat.json", ASKED);
    let said = refused(&out, &["--chat", &chat]);
    let expected = "the chat template refuses the messages: Roles must alternate\n  in chat_template.jinja line 1";
    assert!(said.contains(expected), "{said}");
    let system = file(&place, "system.json", r#"[{"role": "system", "content": "a"}]"#);
    for (arguments, expected) in [
        (&["--chat", &*system, "--system", "b"][..], "the messages begin with one of the role `system` already"),
        (&["--chat", "-", "--chat", "-"], "--chat - is given more than once"),
        (&["--chat", &chat, "--prompt", "x"], "cannot be used with"),
        (&["--system", "b"], "--chat"),
        (&["--chat"], "a value is required for '--chat <FILE>'"),
        (&["--chat", "nowhere.json"], "nowhere.json"),
    ] {
        let said = refused(&out, arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let classifier = place.path().join("classifier.kiln");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", classifier, "--quiet"]).expect(0);
    let said = refused(&classifier, &["--chat", &chat]);
    assert!(said.contains("--chat is for text-generation; this model is for text-classification"), "{said}");
}

#[test]
fn a_build_warns_of_a_template_that_does_not_parse() {
    let (place, out, built) = bundle(&["tract"], &[("chat_template.jinja", "a\n{% if %}")]);
    let expected = "the chat template fails: syntax error: ";
    let built = built.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        built.contains(expected) && built.contains("in chat_template.jinja line 2: run --chat will fail"),
        "{built}"
    );
    let chat = file(&place, "chat.json", ASKED);
    let said = refused(&out, &["--chat", &chat]);
    assert!(said.contains(expected) && said.contains("chat_template.jinja line 2"), "{said}");
    // Nothing else needs it.
    run(&out, &["--prompt", "a kiln"]).expect(0);
    let config = r#"{"tokenizer_class": "GPT2Tokenizer", "chat_template": 7}"#;
    let (_place, out, built) = bundle(&["tract"], &[("tokenizer_config.json", config)]);
    assert!(built.contains("tokenizer_config.json: chat_template: expected a text"), "{built}");
    run(&out, &["--prompt", "a kiln"]).expect(0);
}
