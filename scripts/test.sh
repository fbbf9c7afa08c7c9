#!/usr/bin/env bash
# All that a change has to pass: format, lints, tests, documentation. Sets up what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
cargo fmt --check
cargo clippy --release --features tensorrt --all-targets -- -D warnings
# What set-up installs must be found: no test may pass by skipping.
export KILNC_TEST_STRICT=1
# Without the binding of TensorRT, kilnc is whole in all else.
cargo clippy --release --all-targets -- -D warnings
# TensorRT takes the place of TensorRT for RTX in a build of its own, which compiles and says what it lacks.
cargo clippy --release --features enterprise --all-targets -- -D warnings
cargo test --release --features enterprise --test gpu
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --release --features tensorrt
else
  cargo test --release --features tensorrt --lib --bins --tests
fi
# The examples of the documentation compile.
cargo test --release --features tensorrt --doc
RUSTDOCFLAGS="-D warnings" cargo doc --release --features tensorrt --no-deps --quiet
