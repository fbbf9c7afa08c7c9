//! Engines of 8 bits on the other kind of processor: where this one has VNNI, QEMU emulates one that has not.

use std::process::Command;

use crate::common::Ran;

/// A Haswell, without what QEMU would warn that it lacks.
const HASWELL: &str = "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm";

/// Runs tests of this program on a Haswell, which adds each two products of 8 bits in 16. They open engines in their own
/// process: what they start would run on this processor.
fn on_a_haswell(tests: &[&str]) {
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        return;
    }
    let here = std::env::current_exe().unwrap();
    let mut emulated = Command::new("qemu-x86_64");
    emulated.args(["-cpu", HASWELL]).arg(here).arg("--exact").args(tests).arg("--nocapture");
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
fn the_evaluator_says_what_onnx_runtime_adds_without_vnni() {
    on_a_haswell(&[
        "evaluate::onnx_runtime_adds_as_the_evaluator_says_this_processor_does",
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

#[test]
fn every_family_comes_through_every_format_without_vnni() {
    on_a_haswell(&["schemes::every_family_comes_through_every_format"]);
}
