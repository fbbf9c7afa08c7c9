#!/usr/bin/env bash
# The checks of a change: format, lints, tests, documentation. Sets up what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
cargo fmt --check
# Lints of three feature sets share what they compile: all are of the profile of tests.
cargo clippy --features tensorrt --all-targets -- -D warnings
# Without the binding of TensorRT, kilnc is whole in all else.
cargo clippy --all-targets -- -D warnings
# TensorRT replaces TensorRT for RTX in a build of its own, which compiles and reports what it lacks.
cargo clippy --features enterprise --all-targets -- -D warnings
# What set-up installs must be found: no test may pass by skipping.
export KILNC_TEST_STRICT=1
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --features tensorrt
else
  cargo test --features tensorrt --lib --bins --tests
fi
cargo test --features enterprise --test gpu
# The examples of the documentation compile.
cargo test --features tensorrt --doc
RUSTDOCFLAGS="-D warnings" cargo doc --features tensorrt --no-deps --quiet
