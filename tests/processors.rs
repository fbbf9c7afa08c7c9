//! Engines of 8 bits on the other kind of processor: where this one has VNNI, QEMU emulates one that has not.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::{PROGRAM, Ran, place};

/// A Haswell, without what QEMU would warn that it lacks.
const HASWELL: &str = "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm";

/// Runs tests of this program on a Haswell, which adds each two products of 8 bits in 16; so do the children that they
/// start by `common::children`. Without QEMU it is skipped, loudly.
fn on_a_haswell(tests: &[&str]) {
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        eprintln!("SKIPPED: only x86-64 processors differ in sums of 8 bits, and only Linux emulates one");
        return;
    }
    let (here, place) = (std::env::current_exe().unwrap(), place());
    let script = place.path().join("kilnc");
    let binary = env!("CARGO_BIN_EXE_kilnc");
    std::fs::write(&script, format!("#!/bin/sh\nexec qemu-x86_64 -cpu {HASWELL} '{binary}' \"$@\"\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut emulated = Command::new("qemu-x86_64");
    emulated.args(["-cpu", HASWELL]).arg(here).arg("--exact").args(tests).arg("--nocapture").env(PROGRAM, script);
    match emulated.output() {
        Ok(ran) => {
            let ran = Ran::from(ran).expect(0);
            assert!(ran.stdout.contains(&format!("{} passed", tests.len())), "{}", ran.stdout);
        }
        Err(e) => {
            assert!(std::env::var_os("KILNC_TEST_STRICT").is_none(), "qemu-x86_64: {e}");
            eprintln!("SKIPPED: engines on a processor without VNNI: qemu-x86_64: {e}");
        }
    }
}

#[test]
fn the_emulated_processor_has_no_vnni() {
    on_a_haswell(&["processors::sums_of_8_bits_saturate_where_the_processor_is_emulated"]);
}

/// The other tests rely on it; elsewhere it checks nothing.
#[test]
fn sums_of_8_bits_saturate_where_the_processor_is_emulated() {
    if std::env::var_os(PROGRAM).is_some() {
        assert!(!kilnc::runtime::Processor::here().exact_8_bits());
    }
}

#[test]
fn the_evaluator_adds_as_onnx_runtime_without_vnni() {
    on_a_haswell(&[
        "evaluate::onnx_runtime_adds_as_the_evaluator_on_this_processor",
        "evaluate::sums_that_saturate_differ_from_exact_ones_and_reduced_ranges_make_them_equal",
    ]);
}

#[test]
fn every_family_comes_through_8_bits_without_vnni() {
    on_a_haswell(&[
        "bottleneck::adapters_come_through_every_precision",
        "calibrated::every_family_is_calibrated_and_rounded",
        "families::every_family_comes_through_every_precision",
    ]);
}

/// OpenVINO, too, in children.
#[test]
fn every_family_comes_through_every_format_without_vnni() {
    on_a_haswell(&["schemes::every_family_comes_through_every_format"]);
}
