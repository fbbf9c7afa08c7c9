//! Engines in isolated processes: they give the same outputs there, and a crash there is an error here.

use crate::common::{fixture, place};
use kilnc::back::onnx;
use kilnc::build::{self, Scheme, Source};
use kilnc::eval::Golden;
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::{self, Options, Runtime};
use kilnc::target::Target;

#[test]
fn an_isolated_engine_gives_the_same_outputs() {
    let place = place();
    let path = place.path().join("model.onnx");
    let checkpoint = fixture("tiny-bert");
    let model =
        build::load(&Source { checkpoint: checkpoint.clone(), adapters: Vec::new(), combine: None, task: None })
            .unwrap();
    let scheme = Scheme::new(&Target::OrtCpu, Precision::Fp32);
    onnx::write(&build::compile(model.graph(), &scheme, &mut Manager::default()).unwrap(), &path, &|_| {}).unwrap();
    let golden = Golden::read(&checkpoint.join("golden.safetensors")).unwrap();
    let options = Options { threads: 1 };
    let here = runtime::open(Runtime::Ort, &path, options).unwrap().run(golden.inputs()).unwrap();
    crate::common::children();
    let mut difference = runtime::open_isolated(Runtime::Ort, &path, options, &[]).unwrap();
    assert_eq!(difference.run(golden.inputs()).unwrap(), here);
    // An error there is one here, and the engine goes on.
    let error = difference.run(&Vec::new()).unwrap_err();
    assert!(error.message().contains("which is missing"), "{error}");
    assert_eq!(difference.run(golden.inputs()).unwrap(), here);
}

#[cfg(unix)]
#[test]
fn a_process_that_dies_is_an_error_with_the_signal_and_the_stderr_tail() {
    use std::os::unix::fs::PermissionsExt;
    // The first program that a process names counts, and the other tests name kilnc.
    if !crate::common::in_a_process_of_its_own(
        "isolated::a_process_that_dies_is_an_error_with_the_signal_and_the_stderr_tail",
    ) {
        return;
    }
    let place = place();
    let program = place.path().join("kilnc");
    std::fs::write(&program, "#!/bin/sh\necho 'the library says: oh no' >&2\nkill -SEGV $$\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    kilnc::subprocess::set_program(program);
    let path = place.path().join("model.onnx");
    let error = runtime::open_isolated(Runtime::Ort, &path, Options { threads: 1 }, &[]).err().unwrap();
    let said = error.to_string();
    assert!(said.contains("the child process ended with signal 11 (a crash in native code)"), "{said}");
    assert!(said.contains("stderr tail: the library says: oh no"), "{said}");
}
