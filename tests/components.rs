//! Programs of several components, whose files share one file of weights.

use std::fs;
use std::path::Path;

use crate::common::{fixture, place};
use kilnc::back::onnx;
use kilnc::build::{self, Scheme, Source};
use kilnc::bundle::ComponentEntry;
use kilnc::eval::Golden;
use kilnc::passes::{FirstToken, Manager};
use kilnc::precision::Precision;
use kilnc::program::{Component, Program};
use kilnc::runtime::{self, Named, Options, Runtime};
use kilnc::target::Target;

/// The same classifier twice, one of them with what no other token needs taken out of its last layer.
fn program(checkpoint: &Path) -> Program {
    let source = Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None };
    let model = build::load(&source).unwrap();
    let first = Manager::default().run(model.graph(), &FirstToken).unwrap();
    let component = |name: &str, graph| Component { name: name.to_owned(), graph };
    Program::new(vec![component("whole", model.graph().clone()), component("first", first)]).unwrap()
}

#[test]
fn components_run_over_one_file_of_weights_that_has_each_once() {
    let (place, checkpoint) = (place(), fixture("tiny-bert"));
    let golden = Golden::read(&checkpoint.join("golden.safetensors")).unwrap();
    for (target, runtime) in [(Target::OrtCpu, Runtime::Ort), (Target::Tract, Runtime::Tract)] {
        let scheme = Scheme::new(&target, Precision::Fp32);
        let program = program(&checkpoint)
            .map(|component| build::compile(&component.graph, &scheme, &mut Manager::default()))
            .unwrap();
        let paths = ["whole", "first"].map(|name| place.path().join(format!("engine.{name}.onnx")));
        let data = place.path().join("engine.onnx_data");
        let components: Vec<_> =
            program.components().zip(&paths).map(|(component, path)| (&component.graph, path.as_path())).collect();
        let written = onnx::write_components(&components, &data, &[], &|_| {}).unwrap();
        let [whole, first] = &paths;
        assert_eq!(written.files, [whole, first, &data].map(Clone::clone));
        let lengths = written.files.iter().map(|file| fs::metadata(file).unwrap().len());
        assert_eq!(written.bytes, lengths.sum::<u64>());

        // What the first component reads is all that the second reads, but for what the pass cut.
        let large = |component: &Component| -> u64 {
            let weights = component.graph.weights().map(|(.., weight)| weight.byte_len() as u64);
            weights.filter(|bytes| *bytes >= 1024).map(|bytes| bytes.next_multiple_of(4096)).sum()
        };
        let all: u64 = program.components().map(large).sum();
        assert!(fs::metadata(&data).unwrap().len() < all * 6 / 10, "{target}");

        let run = |path: &Path| -> Named {
            runtime::open(runtime, path, Options { threads: 1 }).unwrap().run(golden.inputs()).unwrap()
        };
        for path in &paths {
            let alone = place.path().join("alone.onnx");
            let graph = &components.iter().find(|(_, of)| of == path).unwrap().0;
            onnx::write(graph, &alone, &|_| {}).unwrap();
            assert_eq!(run(path), run(&alone), "{target}");
        }
    }
}

#[test]
fn the_manifest_has_the_ports_and_the_state_of_a_component() {
    let checkpoint = fixture("decoders/gpt2/lm");
    let source = Source { checkpoint, adapters: Vec::new(), combine: None, task: None };
    let model = build::load(&source).unwrap();
    let component = model.program.components().next().unwrap();
    let entry = ComponentEntry::of(component, "engines/a.onnx".to_owned());
    assert_eq!((entry.name.as_str(), entry.file.as_str()), ("model", "engines/a.onnx"));
    assert_eq!(entry.inputs[0], "input_ids: i64[batch_size, sequence_length]");
    let state: Vec<_> = entry.state.iter().map(|it| (it.input.as_str(), it.output.as_str(), it.grows)).collect();
    assert_eq!(
        state[..2],
        [("past_key_values.0.key", "present.0.key", Some(2)), ("past_key_values.0.value", "present.0.value", Some(2))]
    );
    assert_eq!(state.len() + 1, entry.outputs.len());
}
