#!/usr/bin/env bash
# The whole road on a fresh machine: set up, build kilnc, build the sections bundle, run, score, measure.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
cargo build --release --features tensorrt
kilnc=target/release/kilnc
bundle=out/sections.kiln

run() { printf '\n$ %s\n' "$*" >&2; "$@"; }
run "$kilnc" doctor
run "$kilnc" build out/checkpoints/all-MiniLM-L6-v2 --adapter models/sections-lora \
  --labels models/sections-lora/labels.json --recipe models/sections.toml -o "$bundle"
run "$kilnc" run "$bundle" --text "a mail server with spam filtering" --text "chess engine" \
  --text "library for solving sparse linear systems"
run "$kilnc" eval "$bundle" --data models/sections-eval.jsonl
run "$kilnc" bench "$bundle"
