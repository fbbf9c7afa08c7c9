#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can show: plans of MiniLM for its card, in FP16 and INT8, compared with FP32 and
# timed beside the figures that NVIDIA publishes. Where TensorRT for RTX does not know the card, TensorRT compiles for it
# and runs, if the system has it; else ONNX Runtime's CUDA provider. `TENSORRT=1` takes TensorRT in any case. Ends with exit
# code 4 where there is no GPU. Installs nothing but what scripts/setup.sh does, and says what else to install.
set -euo pipefail
cd "$(dirname "$0")/.."

out=out/gpu
kilnc=target/release/kilnc
checkpoint=out/checkpoints/all-MiniLM-L6-v2
models=$PWD/models

say() { printf 'gpu: %s\n' "$*" >&2; }
missing() { say "$*"; exit 4; }
run() { printf '\n$ %s\n' "$*" >&2; "$@"; }

# The driver and the card.
compgen -G '/dev/nvidia[0-9]*' >/dev/null || [ -e /dev/dxg ] \
  || missing "no GPU here: there is no device node /dev/nvidia0 or /dev/dxg; run this on a machine with an NVIDIA GPU"
command -v nvidia-smi >/dev/null || missing "nvidia-smi is missing: get NVIDIA's driver with: apt-get install nvidia-driver"
card=$(nvidia-smi --id=0 --query-gpu=name,compute_cap,driver_version --format=csv,noheader) \
  || missing "nvidia-smi sees no GPU: $card"
IFS=, read -r name capability driver <<<"$card"
sm=sm$(tr -d ' .' <<<"$capability")
say "$name, $sm, driver$driver"

scripts/setup.sh
cargo build --release --features tensorrt
mkdir -p "$out"

# engine TARGET PRECISION SHAPES: a part of a recipe.
engine() {
  printf '\n[[engine]]\ntarget = "%s"\nprecision = "%s"\n' "$1" "$2"
  [ -z "$3" ] || printf 'shapes = %s\n' "$3"
}

# recipe: the main job's texts and golden outputs, with FP32 first: `kilnc eval` compares the others with it.
recipe() {
  printf 'name = "gpu"\ntask = "text-classification"\nmax_length = 128\n'
  printf 'calibration = "%s"\ntexts = "%s"\n' "$models/sections-calib.jsonl" "$models/sections-calib.jsonl"
  printf '\n[golden]\nfile = "%s"\nmax_abs = 1e-4\n' "$models/sections-lora/golden.safetensors"
  engine ort-cpu fp32 ""
}

# The shapes that NVIDIA publishes figures for, each with its own kernels, and one profile for texts of any length. The
# first that takes a query's shape runs it.
shapes='["1x128..8x128..128x128", "1x384..8x384..128x384", "1x1..8x64..64x512"]'
known=yes
"$kilnc" compile /nonexistent.onnx --target "tensorrt-rtx:$sm" --shapes 1x8 -o "$out/none" 2>&1 \
  | grep -q 'unknown compute capability' && known=no

build() {
  run "$kilnc" build "$checkpoint" --adapter models/sections-lora --labels models/sections-lora/labels.json \
    --recipe "$out/recipe.toml" --strict -o "$out/minilm.kiln"
}

# plans TARGET: builds plans for the card, and compares their predictions with FP32.
plans() {
  { recipe; engine "$1" fp16 "$shapes"; engine "$1" int8-fast "$shapes"; } >"$out/recipe.toml"
  build
  run "$kilnc" eval "$out/minilm.kiln" --data models/sections-eval.jsonl --engine ort-cpu-fp32 \
    --engine "${1/:/-}-fp16" --engine "${1/:/-}-int8-fast"
}

if [ "$known" = yes ] && [ -z "${TENSORRT:-}" ]; then
  plans "tensorrt-rtx:$sm"
elif cargo build --release --features enterprise && "$kilnc" doctor | grep -q '^found *TensorRT '; then
  say "TensorRT compiles for this card and runs"
  plans tensorrt
else
  say "TensorRT is not here (kilnc doctor says how to get it); ONNX Runtime's CUDA provider runs the ONNX files instead"
  { recipe; engine ort-cpu fp16 ""; } >"$out/recipe.toml"
  build
  run "$kilnc" eval "$out/minilm.kiln" --data models/sections-eval.jsonl
fi
run "$kilnc" bench "$out/minilm.kiln" --device cuda:0 --profile t4 --markdown "$out/bench.md"
say "the table is in $out/bench.md"
