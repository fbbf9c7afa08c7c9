//! Passes over decoders: what they change leaves the answers as they were, in one run and in steps with the cache.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::common::place;
use crate::decoders::{decoders, engines, floats, integers, load, outputs, port};
use kilnc::build::{self, Calibrator, Model, Observer};
use kilnc::eval::{Example, Golden};
use kilnc::ir::weight::Int8Range;
use kilnc::ir::{Role, Weight};
use kilnc::passes::{
    ChannelCut, CutVocabulary, FirstToken, FuseQkv, GroupNeurons, Manager, Pass, Prunable, PruneChannels,
    ReplaceWeights, Smooth,
};
use kilnc::ports::PortKind;
use kilnc::runtime::{Elements, Named, Tensor};
use kilnc::task::Task;
use kilnc::verify::verify;

struct Quiet;

impl Observer for Quiet {}

fn golden(name: &str) -> Golden {
    Golden::read(&decoders(name).join("golden-left.safetensors")).unwrap()
}

/// The answers of a model on every engine, in every way that tokens can be given; those of padding left out.
fn answers(model: &Model, inputs: &Named) -> Vec<Vec<f32>> {
    let mask = integers(port(inputs, PortKind::AttentionMask)).to_vec();
    let mut all = Vec::new();
    for (_, mut engine) in engines(model) {
        for found in outputs(model, &mut *engine, inputs) {
            for (_, tensor) in &found {
                let each = floats(tensor).len() / mask.len();
                let kept = floats(tensor).chunks(each.max(1)).zip(&mask).filter(|(_, kept)| **kept != 0);
                all.push(match model.task {
                    Task::TextClassification => floats(tensor).to_vec(),
                    _ => kept.flat_map(|(row, _)| row.to_vec()).collect(),
                });
            }
        }
    }
    assert!(all.len() >= 3);
    all
}

/// How far answers are from others.
fn apart(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let mut largest: f32 = 0.0;
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.len() == expected.len() && !found.is_empty());
        for far in found.iter().zip(expected).map(|(a, b)| (a - b).abs()) {
            assert!(far.is_finite());
            largest = largest.max(far);
        }
    }
    largest
}

const MODELS: [&str; 5] = ["gpt2/lm", "openai-gpt/lm", "llama/lm-own-heads", "gpt2/seqcls", "openai-gpt/base"];

/// Models whose heads share keys and values, whose queries are turned, and whose feed-forward blocks are gated.
const GROUPED: [&str; 5] = ["llama/lm", "qwen2/seqcls", "gemma3_text/lm", "phi/lm", "phi3/lm"];

#[test]
fn smoothed_and_grouped_channels_give_the_same_numbers() {
    let mut changed = 0;
    for name in MODELS.into_iter().chain(GROUPED) {
        let mut model = load(decoders(name), &[], None).unwrap();
        let golden = golden(name);
        let expected = answers(&model, golden.inputs());
        let place = place();
        let mut manager = Manager::default();
        let graph = manager.run(model.graph(), &FirstToken).unwrap();
        let graph = manager.run(&graph, &FuseQkv).unwrap();
        let calibrator = Calibrator::new("golden", vec![golden.inputs().clone()], place.path().to_owned(), &Quiet);
        let calibration = RefCell::new(calibrator.on(&graph).unwrap());
        let graph =
            manager.run(&graph, &Smooth { calibration: &calibration, keep: &[], range: Int8Range::Full }).unwrap();
        model.program =
            manager.run(&graph, &GroupNeurons { calibration: &calibration, groups: 3, keep: &[] }).unwrap().into();
        changed += manager.ran.iter().rev().take(2).map(|ran| ran.report.changed).sum::<usize>();
        let apart = apart(&answers(&model, golden.inputs()), &expected);
        assert!(apart <= 1e-4, "{name}: {apart}");
    }
    assert!(changed >= 16, "only {changed} places were changed");
}

#[test]
fn what_is_cut_answers_like_what_is_zero_and_heads_with_a_cache_stay() {
    for name in MODELS {
        let mut model = load(decoders(name), &[], None).unwrap();
        let (mut cuts, mut zeroed, mut stay) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for (_, node) in model.graph().nodes() {
            let block = match Prunable::of(model.graph(), node) {
                None => continue,
                Some(Err(why)) => {
                    stay.insert(why);
                    continue;
                }
                Some(Ok(block)) => block,
            };
            let id = node.operand(1).unwrap();
            let weight = model.graph().weight(id).unwrap();
            let kept: Vec<usize> = (0..block.units).step_by(2).collect();
            let at = block.channels(&kept);
            let mut values = weight.to_f32s().unwrap().into_owned();
            let rows = values.chunks_mut(weight.shape()[1]).enumerate();
            rows.filter(|(row, _)| !at.contains(row)).for_each(|(_, row)| row.fill(0.0));
            let zeros = Weight::f32s(weight.shape().to_vec(), &values).unwrap();
            zeroed.insert(model.graph().value(id).name.clone(), zeros);
            let bias = node.operand(2).map(|id| model.graph().weight(id).unwrap().clone());
            let role: Role = block.role;
            cuts.insert(role, ChannelCut { weight: weight.take(0, at).unwrap(), bias, kept });
        }
        let layers = model.graph().nodes().filter_map(|(_, node)| node.role?.layer).max().unwrap() + 1;
        let (blocks, reasons) = match model.task {
            Task::TextGeneration => (layers, vec!["its heads have a past"]),
            _ => (2 * layers, Vec::new()),
        };
        assert_eq!((cuts.len(), stay.into_iter().collect::<Vec<_>>()), (blocks, reasons), "{name}");
        let (cut, report) = PruneChannels { cuts: &cuts }.run(model.graph()).unwrap();
        assert_eq!((report.changed, report.left), (cuts.len(), Vec::new()), "{name}");
        let golden = golden(name);
        let zeroed = verify(ReplaceWeights { weights: &zeroed }.run(model.graph()).unwrap().0).unwrap();
        model.program = zeroed.into();
        let expected = answers(&model, golden.inputs());
        model.program = verify(cut).unwrap().into();
        let apart = apart(&answers(&model, golden.inputs()), &expected);
        assert!(apart < 2e-5, "{name}: {apart}");
    }
}

#[test]
fn a_cut_vocabulary_leaves_the_answers_of_the_tokens_that_stay() {
    let names =
        ["gpt2/lm", "gpt2/lm-untied", "openai-gpt/lm", "gpt2/seqcls", "llama/lm", "llama/seqcls", "gemma3_text/lm"];
    for name in names {
        let mut model = load(decoders(name), &[], None).unwrap();
        let golden = golden(name);
        let ids = port(golden.inputs(), PortKind::TokenIds).clone();
        // Numbers that are no ids before, so that one which is not renumbered is seen.
        let kept: BTreeSet<u32> = integers(&ids).iter().map(|id| u32::try_from(*id).unwrap()).collect();
        let kept: Vec<u32> = kept.into_iter().rev().collect();
        let scores = model.task.is_over_vocabulary();
        let all = match model.task {
            Task::TextGeneration => Some(port(golden.outputs(), PortKind::Logits).shape[2]),
            _ => None,
        };
        let picked = |rows: Vec<f32>| match all {
            Some(all) => rows.chunks(all).flat_map(|row| kept.iter().map(|id| row[*id as usize])).collect(),
            None => rows,
        };
        let expected: Vec<Vec<f32>> = answers(&model, golden.inputs()).into_iter().map(picked).collect();
        model.program = Manager::default().run(model.graph(), &CutVocabulary { kept: &kept, scores }).unwrap().into();
        let new = |id: &i64| kept.iter().position(|kept| i64::from(*kept) == *id).unwrap() as i64;
        let renumbered = Tensor { elements: Elements::I64(integers(&ids).iter().map(new).collect()), ..ids };
        let mut inputs = golden.inputs().clone();
        let tokens = inputs.iter_mut().find(|(name, _)| PortKind::TokenIds.is(name)).unwrap();
        tokens.1 = renumbered;
        let apart = apart(&answers(&model, &inputs), &expected);
        assert!(apart <= 1e-6, "{name}: {apart}");
    }
}

#[test]
fn a_cut_vocabulary_keeps_the_token_that_ends_texts() {
    for (name, kept) in [("gpt2/lm", "<|endoftext|>"), ("openai-gpt/lm", "<unk>")] {
        let model = load(decoders(name), &[], None).unwrap();
        let corpus = || Ok(["the ferry left the harbour"].into_iter().map(|text| Ok(Example::unlabelled(text))));
        let cut = build::cut_vocabulary(&model, corpus, &[], &mut Manager::default(), &Quiet).unwrap();
        let json: serde_json::Value = serde_json::from_str(&cut.cut.json).unwrap();
        let added = json["added_tokens"].as_array().unwrap();
        let number = added.iter().find(|token| token["content"] == kept).unwrap()["id"].as_u64().unwrap();
        assert!((number as usize) < cut.report.tokens && cut.report.tokens < cut.report.tokens_before, "{name}");
        let logits = model.graph().outputs()[0];
        assert_eq!(model.graph().value(logits).ty.shape[2].fixed(), Some(cut.report.rows_before), "{name}");
        let logits = cut.graph.outputs()[0];
        assert_eq!(cut.graph.value(logits).ty.shape[2].fixed(), Some(cut.report.rows), "{name}");
    }
}
