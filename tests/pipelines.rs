//! Every task predicts as `transformers.pipeline` does with the same checkpoint, on ONNX Runtime and on tract: scores
//! within 1e-4, words and positions the same. `tests/fixtures/answers/make.py` wrote the checkpoints and the predictions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{fixture, place};
use kilnc::back::onnx;
use kilnc::build::{self, Scheme, Source};
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::{self, Classes, ProblemType, Runtime, TextEncoder, TextInput};
use kilnc::target::Target;
use kilnc::task::Task;
use kilnc::task::{Model, Pipeline, PipelineOptions, Settings};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// Largest difference of a score or a number from PyTorch's.
const BOUND: f64 = 1e-4;

#[derive(Deserialize)]
struct Case {
    folder: String,
    task: Task,
    text: String,
    #[serde(default)]
    question: Option<String>,
    #[serde(default)]
    pair: Option<String>,
    options: Given,
    expected: Value,
}

/// The options that are not as they are where nothing is said.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    window: Option<usize>,
    stride: Option<usize>,
    truncate: bool,
    join: Option<String>,
    top_k: Option<usize>,
    aggregation: Option<String>,
    longest_answer: Option<usize>,
    no_answer: bool,
}

impl Case {
    fn input(&self) -> TextInput<'_> {
        match &self.question {
            Some(question) => TextInput::question(question, &self.text),
            None => TextInput { text: &self.text, pair: self.pair.as_deref() },
        }
    }

    fn options(&self, batch: usize) -> PipelineOptions {
        let Given { window, stride, truncate, join, top_k, aggregation, longest_answer, no_answer } = &self.options;
        let settings = Settings {
            window: *window,
            stride: *stride,
            truncate: truncate.then_some(true),
            join: join.as_ref().map(|join| join.parse().unwrap()),
            top_k: *top_k,
            aggregation: aggregation.as_ref().map(|how| how.parse().unwrap()),
            max_answer_length: *longest_answer,
            no_answer: no_answer.then_some(true),
            similarity: None,
        };
        PipelineOptions { settings, batch }
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str(&fs::read_to_string(fixture("answers/expected.json")).unwrap()).unwrap()
}

/// A checkpoint's engine in its own folder, and the files of its pipeline.
struct Made {
    _place: TempDir,
    path: PathBuf,
    runtime: Runtime,
    tokenizer: PathBuf,
    model: Model,
}

impl Made {
    fn of(checkpoint: &Path, task: Task, target: &Target) -> Made {
        let source =
            Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: Some(task) };
        let model = build::load(&source).unwrap();
        let graph =
            build::compile(model.graph(), &Scheme::new(target, Precision::Fp32), &mut Manager::default()).unwrap();
        let place = place();
        let path = place.path().join("model.onnx");
        onnx::write(&graph, &path, &|_| {}).unwrap();
        let common = &model.checkpoint.common;
        let many = fs::read_to_string(checkpoint.join("config.json")).unwrap().contains("multi_label_classification");
        let problem_type = if many { ProblemType::MultiLabel } else { ProblemType::SingleLabel };
        let classes = Classes { labels: common.labels().unwrap_or_default(), problem_type };
        let context_first = common.model_type.as_deref() == Some("xlnet");
        let model = Model { context_first, ..Model::new(task, classes) };
        Made { path, _place: place, runtime: Runtime::of(target), tokenizer: checkpoint.join("tokenizer.json"), model }
    }

    fn pipeline(&self, options: PipelineOptions) -> Pipeline {
        let engine = runtime::open(self.runtime, &self.path, runtime::Options { threads: 1 }).unwrap();
        let encoder = TextEncoder::open(&self.tokenizer, 32).unwrap();
        Pipeline::new(engine, encoder, self.model.clone(), options).unwrap()
    }
}

/// The part of a prediction that the pipelines return too.
fn summary(task: Task, mut answer: Value) -> Value {
    let field = match task {
        Task::TokenClassification => "entities",
        Task::QuestionAnswering => "answers",
        Task::FillMask => "masks",
        Task::SentenceSimilarity => "embedding",
        Task::TextGeneration => unreachable!("no encoder generates"),
        Task::TextClassification => {
            let top = answer["top"].as_array_mut().unwrap();
            top.iter_mut().for_each(|choice| drop(choice.as_object_mut().unwrap().remove("class")));
            "top"
        }
        Task::FeatureExtraction => {
            answer.as_object_mut().unwrap().remove("windows");
            return answer;
        }
    };
    answer[field].take()
}

/// Where two predictions differ, if they do.
fn difference(found: &Value, expected: &Value, at: &str) -> Option<String> {
    let differ = || Some(format!("at {at}: found {found}, expected {expected}"));
    match (found, expected) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(a, b, &format!("{at}[{i}]")))
        }
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            b.iter().find_map(|(key, b)| difference(&a[key], b, &format!("{at}.{key}")))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            if (a - b).abs() <= BOUND { None } else { differ() }
        }
        (a, b) if a == b => None,
        _ => differ(),
    }
}

#[test]
fn every_task_predicts_as_the_pipelines_do() {
    let cases = cases();
    let mut by_folder: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    cases.iter().for_each(|case| by_folder.entry(&case.folder).or_default().push(case));
    assert!(by_folder.len() >= 14 && cases.len() > 250, "{} folders, {} cases", by_folder.len(), cases.len());
    let mut wrong = Vec::new();
    for (folder, cases) in by_folder {
        for target in [Target::OrtCpu, Target::Tract] {
            let made = Made::of(&fixture("answers").join(folder), cases[0].task, &target);
            for (number, case) in cases.iter().enumerate() {
                // Batches of another size give the same predictions.
                let mut pipeline = made.pipeline(case.options([1, 3][number % 2]));
                let predicted = pipeline.predict(case.input()).unwrap();
                let found = summary(case.task, serde_json::to_value(&predicted).unwrap());
                if let Some(difference) = difference(&found, &case.expected, "") {
                    let options = serde_json::to_string(&case.expected).unwrap();
                    wrong.push(format!("{folder} on {target}, {:?}: {difference}\n  {options}", case.text));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), 2 * cases.len(), wrong.join("\n"));
}
