#!/usr/bin/env bash
# The checks of a change: format, lints, tests, documentation. Sets up what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
cargo fmt --check
# Lints of three feature sets share what they compile: all are of the profile of tests.
cargo clippy --features tensorrt,json-schema --all-targets -- -D warnings
# Without the binding of TensorRT and without JSON schemas, kilnc is whole in all else.
cargo clippy --all-targets -- -D warnings
# TensorRT replaces TensorRT for RTX in a build of its own, which compiles and reports what it lacks.
cargo clippy --features enterprise,json-schema --all-targets -- -D warnings
# What set-up installs must be found: no test may pass by skipping.
export KILNC_TEST_STRICT=1
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --features tensorrt,json-schema
else
  cargo test --features tensorrt,json-schema --lib --bins --tests
fi
cargo test --features enterprise,json-schema --test gpu
# The examples of the documentation compile.
cargo test --features tensorrt,json-schema --doc
RUSTDOCFLAGS="-D warnings" cargo doc --features tensorrt,json-schema --no-deps --quiet
