//! Strategies of generation beside those of `transformers`, on the same logits and the same models.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::common::fixture;
use crate::generate::{json, tokens, trained};
use kilnc::runtime::generate::{
    Context, DecodeOptions, Decoding, GenerateOptions, Generator, SpecialTokens, process, warp,
};
use kilnc::settings::Strategy;

fn strategy(value: &Value) -> Strategy {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn scores_are_those_of_the_processors_of_transformers() {
    let said = json(&fixture("decoders/strategies.json"));
    let said = &said["processed"];
    let numbers =
        |value: &Value| -> Vec<f32> { value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect() };
    let (given, eos) = (tokens(&said["tokens"]), tokens(&said["eos"]));
    let prompt = said["prompt"].as_u64().unwrap() as usize;
    let context = Context { tokens: &given, prompt, most: Some(64), eos: &eos };
    let cases = said["cases"].as_array().unwrap();
    assert!(cases.len() >= 17, "{}", cases.len());
    for case in cases {
        let strategy = strategy(&case["strategy"]);
        let mut scores = numbers(&said["logits"]);
        process(&strategy, &context, &mut scores);
        if strategy.samples() {
            warp(&strategy, &mut scores);
        }
        for (found, expected) in scores.iter().zip(numbers(&case["scores"])) {
            let same = if expected < -1e29 { *found == f32::NEG_INFINITY } else { (found - expected).abs() < 1e-5 };
            assert!(same, "{}: {scores:?}, expected {}", case["strategy"], case["scores"]);
        }
    }
}

#[test]
fn strategies_generate_the_tokens_of_transformers_alone_and_in_padded_batches() {
    let files = ["decoders/strategies.json", "decoders/lfm2/lm/beams.json"].map(|file| json(&fixture(file)));
    let mut cases: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for case in files.iter().flat_map(|said| said["generated"].as_array().unwrap()) {
        cases.entry(case["folder"].as_str().unwrap()).or_default().push(case);
    }
    assert_eq!(cases.len(), 3);
    for (folder, cases) in cases {
        for (name, decoder, _) in trained(&fixture("decoders").join(folder)) {
            let special = SpecialTokens { eos: tokens(&cases[0]["eos"]), bos: None };
            let mut generator = Generator::new(Box::new(decoder), crate::generate::tokenizer(), special);
            for case in &cases {
                let rows =
                    |what: &str| -> Vec<Vec<u32>> { case[what].as_array().unwrap().iter().map(tokens).collect() };
                let (prompts, expected) = (rows("prompts"), rows("rows"));
                let max_new_tokens = case["max_new_tokens"].as_u64().map(|n| n as usize);
                let options = GenerateOptions {
                    strategy: strategy(&case["strategy"]),
                    max_new_tokens,
                    ..GenerateOptions::default()
                };
                let mut generated = |prompts: &[Vec<u32>]| -> Vec<Vec<u32>> {
                    let found = generator.generate_after(prompts, &options, &mut |_| Ok(())).unwrap();
                    found.into_iter().map(|found| found.tokens).collect()
                };
                let what = format!("{folder} on {name}: {}", case["strategy"]);
                assert_eq!(generated(&prompts), expected, "{what}, padded");
                for (prompt, expected) in prompts.iter().zip(&expected) {
                    let alone = generated(std::slice::from_ref(prompt));
                    assert_eq!(alone, std::slice::from_ref(expected), "{what}");
                }
            }
        }
    }
}

#[test]
fn what_is_drawn_after_a_prompt_is_the_same_in_every_batch() {
    let folder = fixture("decoders/gpt2/lm-untied");
    let prompts = [vec![3u32, 9, 4], vec![8], vec![1, 2, 3, 4, 5]];
    let seeded = |seed: u64| Strategy { do_sample: Some(true), seed: Some(seed), ..Strategy::default() };
    let (_, decoder, _) = trained(&folder).remove(0);
    let mut generator = Generator::new(Box::new(decoder), crate::generate::tokenizer(), SpecialTokens::default());
    let mut drawn = |prompts: &[Vec<u32>], seed: u64| -> Vec<Vec<u32>> {
        let (strategy, max_new_tokens) = (seeded(seed), Some(12));
        let options = GenerateOptions { strategy, max_new_tokens, ..GenerateOptions::default() };
        let found = generator.generate_after(prompts, &options, &mut |_| Ok(())).unwrap();
        found.into_iter().map(|found| found.tokens).collect()
    };
    let together = drawn(&prompts, 7);
    for (number, prompt) in prompts.iter().enumerate() {
        assert_eq!(drawn(std::slice::from_ref(prompt), 7 + number as u64), together[number..=number]);
    }
    assert_ne!(drawn(&prompts, 8), together);
}

#[test]
fn a_strategy_that_means_nothing_is_refused_before_the_model_runs() {
    let (_, mut decoder, _) = trained(&fixture("decoders/gpt2/lm-untied")).remove(0);
    let options = |strategy: Strategy| DecodeOptions { strategy, ..DecodeOptions::greedy() };
    let hot = options(Strategy { temperature: Some(f32::NAN), ..Strategy::default() });
    let said = decoder.begin(&[&[1]], &hot).unwrap_err();
    assert_eq!(said.message(), "temperature: expected a number of 0 or more, found NaN");
    let all = options(Strategy { suppress_tokens: Some((0..32).collect()), num_beams: Some(2), ..Strategy::default() });
    let said = decoder.begin_search(&[&[1]], &all).unwrap_err();
    assert!(said.message().starts_with("every token is forbidden"), "{said}");
}
