//! Sessions and generation: caches change nothing, batches change nothing, and texts end where they are to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{fixture, place};
use kilnc::back;
use kilnc::build::{self, Scheme, Source};
use kilnc::evaluate::Arithmetic;
use kilnc::front::hub::checkpoint::GenerationConfig;
use kilnc::ir::{Builder, DType, Dim, Graph, Op, TensorType, ValueId, Weight};
use kilnc::passes::Manager;
use kilnc::ports::PortKind;
use kilnc::precision::Precision;
use kilnc::runtime::generate::{
    BeamStep, Chosen, DecodeOptions, Decoder, DecoderLimits, Decoding, FinishReason, GenerateOptions, Generated,
    Generator, Nll, Piece, SpecialTokens, Step, Window, largest, open_isolated,
};
use kilnc::runtime::{Options, Runtime, Session, TextEncoder};
use kilnc::settings::LongTexts;
use kilnc::target::Target;
use kilnc::verify::{Verified, verify};
use kilnc::{Error, Result};
use serde_json::Value;
use tempfile::TempDir;

const VOCABULARY: usize = 40;
const HEADS: usize = 2;
const SIZE: usize = 4;
const WIDTH: usize = HEADS * SIZE;
const POSITIONS: usize = 24;

/// A small decoder. What it lacks is what a test takes away.
#[derive(Clone, Copy, Debug)]
struct Model {
    layers: usize,
    mask: bool,
    positions: bool,
    cache: bool,
    /// Whether the sizes of heads are numbers.
    sized: bool,
    present: bool,
    extra: bool,
}

const WHOLE: Model =
    Model { layers: 2, mask: true, positions: true, cache: true, sized: true, present: true, extra: false };

impl Model {
    fn graph(&self) -> Verified<Graph> {
        let mut b = Builder::new("decoder");
        let (batch, tokens) = (Dim::from("batch_size"), Dim::from("sequence_length"));
        let past = Dim::from("past_sequence_length");
        let all = if self.cache { past.plus(&tokens).unwrap() } else { tokens.clone() };
        let ids = TensorType::new(DType::I64, vec![batch.clone(), tokens.clone()]);
        let input = b.input("input_ids", ids.clone());
        let mask = self.mask.then(|| b.input("attention_mask", TensorType::new(DType::I64, vec![batch.clone(), all])));
        let places = self.positions.then(|| b.input("position_ids", ids.clone()));
        let extra = self.extra.then(|| b.input("pixel_values", ids));
        let mut seed = 0.0;
        let mut table = |b: &mut Builder, name: &str, shape: [usize; 2]| {
            seed += 1.0;
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| noise(i, seed)).collect();
            b.weight(name, Weight::f32s(shape.to_vec(), &values).unwrap())
        };
        let embedding = table(&mut b, "embedding", [VOCABULARY, WIDTH]);
        let mut x = b.node("embed", Op::Embed, &[embedding, input]).unwrap();
        if let Some(places) = places {
            let table = table(&mut b, "positions", [POSITIONS, WIDTH]);
            let y = b.node("place", Op::Embed, &[table, places]).unwrap();
            x = b.node("placed", Op::Add, &[x, y]).unwrap();
        }
        let mut presents = Vec::new();
        for layer in 0..self.layers {
            let mut project = |b: &mut Builder, name: &str, x: ValueId| {
                let weight = table(b, &format!("{layer}.{name}.weight"), [WIDTH, WIDTH]);
                b.node(&format!("{layer}.{name}"), Op::Linear, &[x, weight]).unwrap()
            };
            let [q, k, v] = ["q", "k", "v"].map(|name| project(&mut b, name, x));
            let size = if self.sized { SIZE.into() } else { Dim::from("head_size") };
            let cache = TensorType::new(DType::F32, vec![batch.clone(), HEADS.into(), past.clone(), size]);
            let caches = self.cache.then(|| {
                ["key", "value"].map(|name| b.input(&format!("past_key_values.{layer}.{name}"), cache.clone()))
            });
            let op = Op::Attention {
                heads: HEADS as i64,
                scale: 0.5,
                kv_heads: None,
                causal: true,
                window: None,
                positions: Some(POSITIONS as i64),
                soft_cap: None,
            };
            let mut operands = vec![Some(q), Some(k), Some(v), mask, None];
            operands.extend(caches.into_iter().flatten().map(Some));
            while operands.last() == Some(&None) {
                operands.pop();
            }
            let attended = b.nodes(&format!("{layer}.attention"), op, &operands).unwrap();
            let y = project(&mut b, "out", attended[0]);
            x = b.node(&format!("{layer}.sum"), Op::Add, &[x, y]).unwrap();
            presents.extend(
                attended[1..].iter().zip(["key", "value"]).map(|(id, n)| (*id, format!("present.{layer}.{n}"))),
            );
        }
        let head = table(&mut b, "head", [WIDTH, VOCABULARY]);
        let logits = b.node("head", Op::Linear, &[x, head]).unwrap();
        b.output("logits", logits).unwrap();
        for (id, name) in presents.iter().filter(|_| self.present) {
            b.output(name, *id).unwrap();
        }
        if let Some(extra) = extra {
            let seen = b.node("seen", Op::Add, &[extra, extra]).unwrap();
            b.output("pixels", seen).unwrap();
        }
        verify(b.finish()).unwrap()
    }

    /// The model as a file for a target.
    fn file(&self, target: &Target) -> (TempDir, std::path::PathBuf) {
        let place = place();
        let path = place.path().join("model.onnx");
        back::onnx::write(&back::lower(&self.graph(), target).unwrap(), &path, &|_| {}).unwrap();
        (place, path)
    }

    fn session(&self, target: &Target, runtime: Runtime) -> Result<Session> {
        let (_place, path) = self.file(target);
        Session::open(runtime, &path, Options { threads: 1 })
    }

    /// On everything that runs it here, by name.
    fn sessions(&self) -> Vec<(String, Session)> {
        let graph = back::lower(&self.graph(), &Target::OrtCpu).unwrap();
        let mut all =
            vec![("evaluator".to_owned(), build::open_evaluator_session(&graph, Arithmetic::default()).unwrap())];
        for (target, runtime) in [(Target::OrtCpu, Runtime::Ort), (Target::Tract, Runtime::Tract)] {
            all.push((runtime.to_string(), self.session(&target, runtime).unwrap()));
        }
        all
    }

    fn decoders(&self, limits: DecoderLimits) -> Vec<(String, Decoder)> {
        let decoder = |(name, session)| (name, Decoder::new(session, limits).unwrap());
        self.sessions().into_iter().map(decoder).collect()
    }

    fn said(&self, target: &Target, runtime: Runtime) -> String {
        let decoder = self.session(target, runtime).and_then(|session| Decoder::new(session, LIMITS));
        decoder.err().unwrap().to_string()
    }
}

const LIMITS: DecoderLimits = DecoderLimits { positions: Some(POSITIONS), long: None, pad: 0 };

fn noise(i: usize, seed: f32) -> f32 {
    ((i as f32 + 1.0) * 12.9898 * (seed + 0.37)).sin() * 1.2
}

const PROMPTS: [&[u32]; 3] = [&[3, 14, 15, 9, 26, 5], &[7], &[1, 2, 8]];

/// Greedy tokens without a cache: the whole text is run for each.
fn without_cache(decoder: &mut Decoder, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut text = prompt.to_vec();
    for _ in 0..n {
        let mut next = 0;
        let show = &mut |_: usize, place: usize, logits: &[f32]| {
            if place + 1 == text.len() {
                next = largest(logits)? as u32;
            }
            Ok(())
        };
        decoder.forced(&[&text], 100, show).unwrap();
        text.push(next);
    }
    text.split_off(prompt.len())
}

/// Greedy tokens of a batch, each row as long as `n` says.
fn greedy(decoder: &mut dyn Decoding, prompts: &[&[u32]], n: &[usize]) -> Vec<Vec<u32>> {
    let mut texts = vec![Vec::new(); prompts.len()];
    let mut step = decoder.begin(prompts, &DecodeOptions::greedy()).unwrap();
    let mut rows: Vec<usize> = (0..prompts.len()).collect();
    loop {
        rows = step.chosen.iter().map(|chosen| rows[chosen.row]).collect();
        rows.iter().zip(&step.chosen).for_each(|(row, chosen)| texts[*row].push(chosen.token));
        let going_on: Vec<usize> = (0..rows.len()).filter(|i| texts[rows[*i]].len() < n[rows[*i]]).collect();
        if going_on.is_empty() {
            return texts;
        }
        step = decoder.step(&going_on).unwrap();
        rows = going_on.iter().map(|i| rows[*i]).collect();
    }
}

#[test]
fn steps_with_a_cache_and_padded_batches_give_the_tokens_of_whole_texts() {
    for model in [WHOLE, Model { positions: false, ..WHOLE }] {
        let mut expected: Option<Vec<Vec<u32>>> = None;
        for (name, mut decoder) in model.decoders(LIMITS) {
            let whole: Vec<Vec<u32>> = PROMPTS.iter().map(|prompt| without_cache(&mut decoder, prompt, 12)).collect();
            for (prompt, whole) in PROMPTS.iter().zip(&whole) {
                assert_eq!(greedy(&mut decoder, &[prompt], &[12]), std::slice::from_ref(whole), "{name}");
            }
            assert_eq!(greedy(&mut decoder, &PROMPTS, &[12; 3]), whole, "{name}: a padded batch");
            // Rows that end are run no more, and the others do not notice.
            let ended: Vec<Vec<u32>> = whole.iter().zip([4, 12, 7]).map(|(text, n)| text[..n].to_vec()).collect();
            assert_eq!(greedy(&mut decoder, &PROMPTS, &[4, 12, 7]), ended, "{name}: rows that end");
            let expected = expected.get_or_insert_with(|| whole.clone());
            assert_eq!(&whole, expected, "{name}");
        }
        // Not the same token again and again: positions, masks and caches have a say.
        assert!(expected.unwrap().iter().any(|text| text.iter().any(|token| *token != text[0])));
    }
}

#[test]
fn texts_are_scored_in_pieces_and_in_batches_as_one_by_one() {
    let texts: [&[u32]; 3] = [&[3, 14, 15, 9, 26, 5, 31, 2], &[7, 1, 39], &[1, 2, 8, 8, 5]];
    for (name, mut decoder) in WHOLE.decoders(LIMITS) {
        let mut logits: Vec<Vec<Vec<f32>>> = vec![Vec::new(); texts.len()];
        for (number, text) in texts.iter().enumerate() {
            decoder
                .forced(&[text], 100, &mut |_, _, row| {
                    logits[number].push(row.to_vec());
                    Ok(())
                })
                .unwrap();
        }
        for piece in [1, 3, 100] {
            let mut found: Vec<Vec<Vec<f32>>> = vec![Vec::new(); texts.len()];
            let show = &mut |row: usize, place: usize, values: &[f32]| {
                assert_eq!(place, found[row].len());
                found[row].push(values.to_vec());
                Ok(())
            };
            decoder.forced(&texts, piece, show).unwrap();
            for (found, expected) in found.iter().flatten().zip(logits.iter().flatten()) {
                assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{name}, pieces of {piece}");
            }
        }
        let window = |context| move |text: &&[u32]| Window { tokens: text.to_vec(), context };
        for context in [0, 1, 2] {
            let found = decoder.score(&texts.iter().map(window(context)).collect::<Vec<_>>()).unwrap();
            for ((text, logits), found) in texts.iter().zip(&logits).zip(found) {
                let scored = context.max(1)..text.len();
                let expected: f64 = scored.clone().map(|i| nll(&logits[i - 1], text[i] as usize)).sum();
                assert_eq!(found.tokens, scored.len());
                assert!((found.sum - expected).abs() < 1e-3, "{name}: {found:?} {expected}");
            }
        }
        let said = decoder.score(&[Window { tokens: vec![1, VOCABULARY as u32 + 1], context: 0 }]).unwrap_err();
        assert!(said.to_string().contains("outside of the model's vocabulary"), "{name}: {said}");
    }
}

fn nll(logits: &[f32], token: usize) -> f64 {
    let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    sum.ln() - f64::from(logits[token])
}

#[test]
fn graphs_that_are_none_of_a_decoder_are_refused_by_name() {
    for (target, runtime) in [(Target::OrtCpu, Runtime::Ort), (Target::Tract, Runtime::Tract)] {
        let said = |model: Model| model.said(&target, runtime);
        assert!(said(Model { cache: false, ..WHOLE }).starts_with("the graph has no cache"));
        let no_present = said(Model { present: false, ..WHOLE });
        assert!(no_present.contains("has an input `past_key_values.0.key`, but no output"), "{no_present}");
        let extra = said(Model { extra: true, ..WHOLE });
        assert!(extra.contains("no values are known for the graph's input `pixel_values`"), "{extra}");
    }
}

#[test]
fn a_cache_whose_size_is_not_known_is_refused_by_name() {
    // ONNX Runtime alone: it gives what the file declares.
    let (_place, path) = unsized_cache();
    let session = Session::open(Runtime::Ort, &path, Options { threads: 1 }).unwrap();
    let said = Decoder::new(session, LIMITS).unwrap().begin(&[&[1]], &DecodeOptions::greedy()).unwrap_err();
    assert_eq!(
        said.message(),
        "the graph's input `past_key_values.0.key` does not say its size on axis 3, so that no empty cache can be made \
         for it"
    );
}

/// The decoder with a name in the place of the size of heads, as other exporters write it.
fn unsized_cache() -> (TempDir, std::path::PathBuf) {
    use onnx_protobuf::{Message, ModelProto};
    let (place, path) = WHOLE.file(&Target::OrtCpu);
    let mut model = ModelProto::parse_from_bytes(&std::fs::read(&path).unwrap()).unwrap();
    for input in &mut model.graph.mut_or_insert_default().input {
        if input.name.starts_with("past_key_values") {
            let shape = input.type_.mut_or_insert_default().mut_tensor_type().shape.mut_or_insert_default();
            shape.dim[3].set_dim_param("head_size".to_owned());
        }
    }
    std::fs::write(&path, model.write_to_bytes().unwrap()).unwrap();
    (place, path)
}

#[test]
fn prompts_that_cannot_be_read_are_refused() {
    for (name, mut decoder) in WHOLE.decoders(LIMITS) {
        let said = decoder.begin(&[&[]], &DecodeOptions::greedy()).unwrap_err();
        assert_eq!(said.message(), "a text of no token cannot be continued", "{name}");
        let long = [1; POSITIONS + 1];
        let said = decoder.begin(&[&long], &DecodeOptions::greedy()).unwrap_err();
        assert_eq!(said.message(), "a text of 25 tokens, and the model has 24 positions", "{name}");
    }
    for (name, mut decoder) in (Model { mask: false, ..WHOLE }).decoders(LIMITS) {
        let said = decoder.begin(&[&[1], &[1, 2]], &DecodeOptions::greedy()).unwrap_err();
        assert!(said.message().contains("no input `attention_mask`, so texts of different lengths"), "{name}: {said}");
        // Of one length they need no mask.
        let both = greedy(&mut decoder, &[&[1, 5], &[3, 2]], &[4, 4]);
        assert_eq!(both[1], greedy(&mut decoder, &[&[3, 2]], &[4])[0], "{name}");
    }
}

/// A tokenizer of bytes, and of some pairs of them.
pub(crate) fn tokenizer() -> TextEncoder {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0;
    let mut character = |byte: u8| {
        if plain(byte) {
            return char::from(byte);
        }
        others += 1;
        char::from_u32(255 + others).unwrap()
    };
    let bytes: Vec<String> = (0..=255).map(|byte| character(byte).to_string()).collect();
    let merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a"), ("Ã", "©")];
    let mut vocabulary: Vec<String> = bytes;
    vocabulary.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocabulary: serde_json::Map<_, _> =
        vocabulary.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let eos = vocabulary.len();
    let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let byte_level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let file = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": eos, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "vocab": vocabulary, "merges": merges},
    });
    TextEncoder::parse(file.to_string(), 64).unwrap()
}

fn ids(text: &str) -> Vec<u32> {
    tokenizer().ids(&[text.into()]).unwrap().remove(0)
}

const EOS: u32 = 261;

/// A decoder that gives the tokens of a script, row by row.
struct Script {
    texts: Vec<Vec<u32>>,
    said: Vec<usize>,
    rows: Vec<usize>,
    positions: usize,
    prompts: Vec<usize>,
}

impl Script {
    fn new(texts: &[Vec<u32>]) -> Script {
        Script { texts: texts.to_vec(), said: Vec::new(), rows: Vec::new(), positions: 10_000, prompts: Vec::new() }
    }

    fn next(&mut self) -> Step {
        let chosen = |(row, text): (usize, &usize)| {
            let said = self.said[*text];
            let full = self.prompts[*text] + said + 1 >= self.positions;
            Chosen { row, token: self.texts[*text].get(said).copied().unwrap_or(EOS), full, complete: false }
        };
        let chosen = self.rows.iter().enumerate().map(chosen).collect();
        self.rows.iter().for_each(|text| self.said[*text] += 1);
        Step { chosen, elapsed: Duration::from_millis(1) }
    }
}

impl Decoding for Script {
    fn describe(&self) -> String {
        "a script".to_owned()
    }

    fn begin(&mut self, prompts: &[&[u32]], _options: &DecodeOptions) -> Result<Step> {
        self.rows = (0..prompts.len()).collect();
        self.said = vec![0; prompts.len()];
        self.prompts = prompts.iter().map(|prompt| prompt.len()).collect();
        Ok(self.next())
    }

    fn step(&mut self, going_on: &[usize]) -> Result<Step> {
        self.rows = going_on.iter().map(|row| self.rows[*row]).collect();
        Ok(self.next())
    }

    fn begin_search(&mut self, _: &[&[u32]], _: &DecodeOptions) -> Result<BeamStep> {
        Err(Error::bug("a script searches nothing"))
    }

    fn search(&mut self) -> Result<BeamStep> {
        Err(Error::bug("a script searches nothing"))
    }

    fn score(&mut self, _windows: &[Window]) -> Result<Vec<Nll>> {
        Err(Error::bug("a script scores nothing"))
    }
}

/// What is generated of a script, and the pieces of each prompt.
fn generated(
    script: Script,
    prompts: &[&str],
    options: &GenerateOptions,
) -> Result<(Vec<Generated>, Vec<Vec<String>>)> {
    let special = SpecialTokens { eos: vec![EOS], bos: Some(EOS) };
    let mut generator = Generator::new(Box::new(script), tokenizer(), special);
    let mut pieces = vec![Vec::new(); prompts.len()];
    let mut show = |piece: Piece| {
        pieces[piece.prompt].push(piece.text.to_owned());
        Ok(())
    };
    let found = generator.generate(prompts, options, &mut show)?;
    Ok((found, pieces))
}

#[test]
fn a_stream_has_whole_characters_and_is_together_the_text() {
    // What no text holds, too: bytes that are no characters, cut ones, a token that is one and a half.
    let mut texts = vec![
        ids("the thé — 東京 🦀🦀 naïve\n\n  the end"),
        [vec![0xa9 - 33 + 1; 3], ids("ok"), vec![255, 255]].concat(),
        [ids("a🦀")[..3].to_vec(), ids("the")].concat(),
        vec![260, 94, 260],
    ];
    // Longer than what is decoded together.
    texts.push(ids(&"the 🦀 runs on é, ".repeat(30)));
    let mut state = 1_u64;
    for _ in 0..200 {
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        texts.push(
            (0..150).map(|_| if random().is_multiple_of(3) { random() % 256 } else { 64 + random() % 197 }).collect(),
        );
    }
    for prompt in ["the prompt", "", "ends in é", "🦀"] {
        let prompts = vec![prompt; texts.len()];
        let (found, pieces) = generated(Script::new(&texts), &prompts, &GenerateOptions::default()).unwrap();
        let encoder = tokenizer();
        for ((text, found), pieces) in texts.iter().zip(&found).zip(&pieces) {
            let whole = [ids(prompt), text.clone()].concat();
            let whole = encoder.decoded(vec![whole], true).unwrap().remove(0);
            assert_eq!(found.text, whole[prompt.len()..], "{text:?}");
            assert_eq!(pieces.concat(), found.text, "{text:?}");
            assert_eq!(found.finish_reason, FinishReason::Eos);
            assert_eq!(found.tokens, [text.clone(), vec![EOS]].concat());
            assert_eq!(found.times.len(), found.tokens.len());
        }
        let first: Vec<&str> = pieces[0].iter().map(String::as_str).filter(|piece| !piece.is_empty()).collect();
        assert!(first.len() > 20 && first.contains(&"🦀") && first.contains(&"é"), "{first:?}");
    }
}

#[test]
fn a_stop_string_ends_a_text_before_itself_wherever_tokens_are_cut() {
    let text = ids("one\n\nthe two — three");
    let stopped = |stop: &[&str]| {
        let options = GenerateOptions {
            stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
            ..GenerateOptions::default()
        };
        let (mut found, pieces) = generated(Script::new(std::slice::from_ref(&text)), &["x"], &options).unwrap();
        assert_eq!(pieces[0].concat(), found[0].text);
        (found.remove(0), pieces)
    };
    for (stop, before) in
        [("\n\n", "one"), ("e\n\nt", "on"), (" two", "one\n\nthe"), ("—", "one\n\nthe two "), ("one", "")]
    {
        let (found, _) = stopped(&[stop]);
        assert_eq!((found.text.as_str(), found.finish_reason), (before, FinishReason::Stop), "{stop:?}");
        assert!(found.tokens.len() < text.len(), "{stop:?}");
    }
    let (found, _) = stopped(&["three!", "no such"]);
    assert_eq!((found.text.as_str(), found.finish_reason), ("one\n\nthe two — three", FinishReason::Eos));
    // Of several the one that comes first.
    assert_eq!(stopped(&["two", "the"]).0.text, "one\n\n");
    // A special token has no text, and ends one all the same.
    let options = GenerateOptions { stop: vec!["<|endoftext|>".to_owned()], ..GenerateOptions::default() };
    let mut generator =
        Generator::new(Box::new(Script::new(std::slice::from_ref(&text))), tokenizer(), SpecialTokens::default());
    let found = generator.generate(&["x"], &options, &mut |_| Ok(())).unwrap().remove(0);
    assert_eq!((found.text.as_str(), found.finish_reason), ("one\n\nthe two — three", FinishReason::Stop));
    let empty = GenerateOptions { stop: vec![String::new()], ..GenerateOptions::default() };
    assert_eq!(generator.generate(&["x"], &empty, &mut |_| Ok(())).unwrap_err().message(), "a stop string is empty");
}

#[test]
fn a_text_ends_where_it_was_asked_to_or_where_the_model_does() {
    let text = ids("the the the the the the");
    let run = |options: GenerateOptions, positions: usize| {
        let script = Script { positions, ..Script::new(&[text.clone(), text.clone()]) };
        let (found, _) = generated(script, &["ab", "abcd"], &options)?;
        Ok(found.into_iter().map(|found| (found.tokens.len(), found.finish_reason)).collect::<Vec<_>>())
    };
    let none = GenerateOptions::default();
    let new = |n| GenerateOptions { max_new_tokens: Some(n), ..none.clone() };
    let long = |n| GenerateOptions { max_length: Some(n), ..none.clone() };
    let eos = text.len() + 1;
    assert_eq!(run(none.clone(), 1000).unwrap(), [(eos, FinishReason::Eos); 2]);
    assert_eq!(run(new(3), 1000).unwrap(), [(3, FinishReason::Length); 2]);
    assert_eq!(run(new(usize::MAX), 1000).unwrap(), [(eos, FinishReason::Eos); 2]);
    assert_eq!(run(long(6), 1000).unwrap(), [(4, FinishReason::Length), (2, FinishReason::Length)]);
    assert_eq!(run(none.clone(), 7).unwrap(), [(5, FinishReason::Context), (3, FinishReason::Context)]);
    let said = |found: Result<Vec<(usize, FinishReason)>>| found.unwrap_err().message().to_owned();
    assert_eq!(said(run(new(0), 1000)), "0 new tokens are asked for");
    assert!(
        said(run(long(4), 1000))
            .starts_with("a prompt of 4 tokens leaves no room for another: a text is to have 4 tokens")
    );
    // An error of who is shown the tokens ends it.
    let mut generator = Generator::new(Box::new(Script::new(&[text])), tokenizer(), SpecialTokens::default());
    let closed = generator.generate(&["x"], &none, &mut |_| Err(Error::bad_input("closed")));
    assert_eq!(closed.unwrap_err().message(), "closed");
    let said = generator.generate(&[""], &none, &mut |_| Ok(())).unwrap_err();
    assert_eq!(said.message(), "a prompt is empty");
}

#[test]
fn the_context_of_a_model_ends_a_text() {
    for (name, decoder) in WHOLE.decoders(LIMITS) {
        let mut generator = Generator::new(Box::new(decoder), tokenizer(), SpecialTokens::default());
        let prompts: Vec<Vec<u32>> = PROMPTS.iter().map(|prompt| prompt.to_vec()).collect();
        let found = generator.generate_after(&prompts, &GenerateOptions::default(), &mut |_| Ok(())).unwrap();
        for (prompt, found) in prompts.iter().zip(found) {
            assert_eq!(found.finish_reason, FinishReason::Context, "{name}");
            // The padding before shorter prompts takes places, too.
            let padding = PROMPTS[0].len() - prompt.len();
            assert_eq!(padding + prompt.len() + found.tokens.len(), POSITIONS, "{name}");
        }
    }
}

#[test]
fn a_decoder_answers_the_same_in_a_process_of_its_own() {
    crate::common::children();
    let (_place, path) = WHOLE.file(&Target::OrtCpu);
    let session = Session::open(Runtime::Ort, &path, Options { threads: 1 }).unwrap();
    let mut here = Decoder::new(session, LIMITS).unwrap();
    let mut apart = open_isolated(Runtime::Ort, &path, Options { threads: 1 }, LIMITS).unwrap();
    assert_eq!(apart.describe(), here.describe());
    assert_eq!(greedy(&mut *apart, &PROMPTS, &[4, 12, 7]), greedy(&mut here, &PROMPTS, &[4, 12, 7]));
    let window = [Window { tokens: vec![3, 1, 4, 1, 5], context: 2 }];
    assert_eq!(apart.score(&window).unwrap(), here.score(&window).unwrap());
    // An error there is one here, and the decoder goes on.
    let said = apart.begin(&[&[1; POSITIONS + 1]], &DecodeOptions::greedy()).unwrap_err();
    assert_eq!(said.message(), "a text of 25 tokens, and the model has 24 positions");
    assert_eq!(greedy(&mut *apart, &PROMPTS, &[3; 3]), greedy(&mut here, &PROMPTS, &[3; 3]));
}

#[test]
fn openvino_generates_the_same_tokens() {
    if !crate::common::openvino("openvino_generates_the_same_tokens") {
        return;
    }
    crate::common::children();
    let mut here = WHOLE.decoders(LIMITS).remove(0).1;
    let (_place, path) = WHOLE.file(&Target::OpenVino);
    let mut apart = open_isolated(Runtime::OpenVino, &path, Options { threads: 1 }, LIMITS).unwrap();
    assert_eq!(greedy(&mut *apart, &PROMPTS, &[4, 12, 7]), greedy(&mut here, &PROMPTS, &[4, 12, 7]));
}

#[cfg(unix)]
#[test]
fn a_decoder_that_is_killed_between_two_tokens_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    if !crate::common::in_a_process_of_its_own("generate::a_decoder_that_is_killed_between_two_tokens_is_an_error") {
        return;
    }
    let place = place();
    let (program, id) = (place.path().join("kilnc"), place.path().join("id"));
    let kilnc = env!("CARGO_BIN_EXE_kilnc");
    std::fs::write(&program, format!("#!/bin/sh\necho $$ > {}\nexec {kilnc} \"$@\"\n", id.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    kilnc::subprocess::set_program(program);
    let (_place, path) = WHOLE.file(&Target::OrtCpu);
    let mut decoder = open_isolated(Runtime::Ort, &path, Options { threads: 1 }, LIMITS).unwrap();
    decoder.begin(&[&[3, 1]], &DecodeOptions::greedy()).unwrap();
    decoder.step(&[0]).unwrap();
    let id = std::fs::read_to_string(&id).unwrap();
    assert!(std::process::Command::new("kill").args(["-9", id.trim()]).status().unwrap().success());
    let said = decoder.step(&[0]).unwrap_err().to_string();
    assert!(
        said.contains("generating with model.onnx by ONNX Runtime: the child process ended with signal 9"),
        "{said}"
    );
}

/// The language models of the fixtures.
fn checkpoints() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["gpt2", "openai-gpt"]
        .into_iter()
        .flat_map(|family| std::fs::read_dir(fixture("decoders").join(family)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("greedy.json").exists())
        .collect();
    found.sort();
    found
}

/// A checkpoint as decoders, by the name of what runs them.
pub(crate) fn trained(checkpoint: &Path) -> Vec<(&'static str, Decoder, GenerationConfig)> {
    let source = Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None };
    let model = build::load(&source).unwrap();
    let (config, _) = GenerationConfig::read(&model.checkpoint).unwrap();
    let limits = DecoderLimits { positions: config.positions, long: None, pad: 0 };
    let place = place();
    let on = |(name, target, runtime): (&'static str, Target, Runtime)| {
        let path = place.path().join(format!("{name}.onnx"));
        let scheme = Scheme::new(&target, Precision::Fp32);
        let graph = build::compile(model.graph(), &scheme, &mut Manager::default()).unwrap();
        back::onnx::write(&graph, &path, &|_| {}).unwrap();
        let session = Session::open(runtime, &path, Options { threads: 1 }).unwrap();
        (name, Decoder::new(session, limits).unwrap(), config.clone())
    };
    [("ort", Target::OrtCpu, Runtime::Ort), ("tract", Target::Tract, Runtime::Tract)].map(on).into()
}

/// A checkpoint's decoders with other limits.
fn limited(checkpoint: &Path, limits: DecoderLimits) -> Vec<(&'static str, Decoder)> {
    let source = Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None };
    let model = build::load(&source).unwrap();
    let place = place();
    let on = |(name, target, runtime): (&'static str, Target, Runtime)| {
        let path = place.path().join(format!("{name}.onnx"));
        let scheme = Scheme::new(&target, Precision::Fp32);
        let graph = build::compile(model.graph(), &scheme, &mut Manager::default()).unwrap();
        back::onnx::write(&graph, &path, &|_| {}).unwrap();
        (name, Decoder::new(Session::open(runtime, &path, Options { threads: 1 }).unwrap(), limits).unwrap())
    };
    [("ort", Target::OrtCpu, Runtime::Ort), ("tract", Target::Tract, Runtime::Tract)].map(on).into()
}

/// A state is thrown away where the family's class throws its own away, and likelihoods are those of whole texts.
#[test]
fn texts_that_outgrow_their_angles_are_run_as_transformers_does() {
    for (name, restart) in [("llama/lm-dynamic", false), ("llama/lm-longrope", false), ("phi3/lm-longer", true)] {
        let checkpoint = fixture("decoders").join(name);
        let said = json(&checkpoint.join("greedy.json"));
        let of = |field: &str| -> Vec<Vec<u32>> {
            said["rows"].as_array().unwrap().iter().map(|row| tokens(&row[field])).collect()
        };
        let (prompts, expected) = (of("prompt"), of("generated"));
        assert_eq!(of("greedy") != expected, restart);
        let borrowed: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let limits = DecoderLimits { positions: Some(32), long: Some(LongTexts { after: 5, restart }), pad: 0 };
        for (engine, mut decoder) in limited(&checkpoint, limits) {
            assert_eq!(greedy(&mut decoder, &borrowed, &[20; 3]), expected, "{name} on {engine}, padded");
            for (prompt, expected) in borrowed.iter().zip(&expected) {
                assert_eq!(
                    greedy(&mut decoder, &[prompt], &[20]),
                    std::slice::from_ref(expected),
                    "{name} on {engine}"
                );
            }
            let golden = kilnc::eval::Golden::read(&checkpoint.join("golden-unpadded.safetensors")).unwrap();
            let ids = crate::decoders::port(golden.inputs(), PortKind::TokenIds);
            let ids: Vec<u32> = crate::decoders::integers(ids).iter().map(|id| u32::try_from(*id).unwrap()).collect();
            let logits = crate::decoders::floats(crate::decoders::port(golden.outputs(), PortKind::Logits));
            let mut far = 0.0_f32;
            let show = &mut |_: usize, place: usize, found: &[f32]| {
                let expected = &logits[place * found.len()..(place + 1) * found.len()];
                far = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(far, f32::max);
                Ok(())
            };
            decoder.forced(&[&ids], 1, show).unwrap();
            assert!(far < 1e-4, "{name} on {engine}: {far}");
        }
    }
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(crate) fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn trained_decoders_generate_the_tokens_of_pytorch_alone_and_in_padded_batches() {
    let checkpoints = checkpoints();
    assert!(checkpoints.len() >= 15, "{}", checkpoints.len());
    for checkpoint in checkpoints {
        let said = json(&checkpoint.join("greedy.json"));
        let rows = said["rows"].as_array().unwrap();
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| tokens(&row["prompt"])).collect();
        let expected: Vec<Vec<u32>> = rows.iter().map(|row| tokens(&row["greedy"])).collect();
        let borrowed: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        for (name, mut decoder, _) in trained(&checkpoint) {
            let place = checkpoint.display();
            assert_eq!(greedy(&mut decoder, &borrowed, &[20; 3]), expected, "{place} on {name}, padded");
            for (prompt, expected) in borrowed.iter().zip(&expected) {
                assert_eq!(greedy(&mut decoder, &[prompt], &[20]), std::slice::from_ref(expected), "{place} on {name}");
            }
            let stop = &said["stopped"];
            let special = SpecialTokens { eos: vec![stop["eos_token_id"].as_u64().unwrap() as u32], bos: None };
            let mut generator = Generator::new(Box::new(decoder), tokenizer(), special);
            let options = GenerateOptions { max_new_tokens: Some(20), ..GenerateOptions::default() };
            let found = generator.generate_after(&prompts, &options, &mut |_| Ok(())).unwrap();
            let found: Vec<Vec<u32>> = found.into_iter().map(|found| found.tokens).collect();
            let expected: Vec<Vec<u32>> = stop["greedy"].as_array().unwrap().iter().map(tokens).collect();
            assert_eq!(found, expected, "{place} on {name}, stopped");
        }
    }
}

#[test]
fn trained_decoders_give_the_texts_and_the_perplexity_of_pytorch() {
    for family in ["gpt2", "openai-gpt"] {
        let checkpoint = fixture("decoders").join(family).join("lm");
        let (greedy, said) = (json(&checkpoint.join("greedy.json")), json(&checkpoint.join("perplexity.json")));
        for (name, mut decoder, config) in trained(&checkpoint) {
            let texts: Vec<Vec<u32>> = said["input_ids"].as_array().unwrap().iter().map(tokens).collect();
            let (long, short) = texts.split_last().unwrap();
            let windows: Vec<Window> =
                short.iter().map(|tokens| Window { tokens: tokens.clone(), context: 0 }).collect();
            let found = decoder.score(&windows).unwrap();
            for (found, expected) in found.iter().zip(said["short"].as_array().unwrap()) {
                assert_eq!(found.tokens as u64, expected["predicted"].as_u64().unwrap());
                let mean = found.sum / found.tokens as f64;
                assert!((mean - expected["nll"].as_f64().unwrap()).abs() < 1e-4, "{family} on {name}: {mean}");
            }
            let all = found.into_iter().fold(Nll::default(), |all, one| all + one);
            let (found, expected) = (all.perplexity().unwrap(), said["short_perplexity"].as_f64().unwrap());
            assert!((found / expected - 1.0).abs() < 1e-4, "{family} on {name}: {found}");
            // Windows of the model's positions, each half a window after the one before it.
            let (positions, stride) = (config.positions.unwrap(), said["long"]["stride"].as_u64().unwrap() as usize);
            let (mut windows, mut scored, mut begin) = (Vec::new(), 0, 0);
            while scored < long.len() {
                let end = long.len().min(begin + positions);
                windows.push(Window { tokens: long[begin..end].to_vec(), context: scored - begin.min(scored) });
                (scored, begin) = (end, begin + stride);
            }
            let all = decoder.score(&windows).unwrap().into_iter().fold(Nll::default(), |all, one| all + one);
            assert_eq!(all.tokens as u64, said["long"]["predicted"].as_u64().unwrap());
            let mean = all.sum / all.tokens as f64;
            assert!((mean - said["long"]["nll"].as_f64().unwrap()).abs() < 1e-4, "{family} on {name}: {mean}");
            let encoder = TextEncoder::open(&checkpoint.join("tokenizer.json"), positions).unwrap();
            let mut generator = Generator::new(Box::new(decoder), encoder, SpecialTokens::default());
            for row in greedy["rows"].as_array().unwrap() {
                let text = row["text"].as_str().unwrap();
                assert_eq!(generator.encode(&[text]).unwrap(), [tokens(&row["prompt"])]);
                let options = GenerateOptions { max_new_tokens: Some(20), ..GenerateOptions::default() };
                let found = generator.generate(&[text], &options, &mut |_| Ok(())).unwrap().remove(0);
                // PyTorch decoded these tokens alone, where the first word has no space before it.
                let expected = row["greedy_text"].as_str().unwrap();
                assert_eq!(found.text.trim_start(), expected.trim_start(), "{family} on {name}");
                assert_eq!(found.tokens, tokens(&row["greedy"]), "{family} on {name}");
            }
        }
    }
}
