#!/usr/bin/env bash
# Exports tiny decoders with kilnc in the Hub's layout, and lets Optimum and Transformers.js generate with them.
#
#     decoders.sh KILNC [NPM [CHECKPOINT...]]
#
# KILNC is the binary; NPM is a folder that gets (or has) Transformers.js, by default a new one. CHECKPOINT are folders of
# tests/fixtures/decoders, by default all of GPT-2 and one of every other family, with a head for generation. Python needs what requirements.txt names.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
fixtures=$here/../../tests/fixtures/decoders
kilnc=$1
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
npm=${2:-$place/npm}
shift $(($# < 2 ? $# : 2))
shopt -s extglob
# Optimum knows no OpenAI GPT; kilnc refuses lm-cross.
(($#)) || set -- "$fixtures"/gpt2/lm!(-cross) "$fixtures"/{bloom,cohere,gemma,gemma2,gemma3_text,glm4,gpt_neox,gpt_oss,granite,llama,mistral,olmo2,opt,phi,phi3,qwen2,qwen3,qwen3_moe,smollm3,starcoder2}/lm

mkdir -p "$npm"
# Its browser's and its GPU's libraries are not fetched; the CPU's are in the package.
[ -d "$npm/node_modules/@huggingface/transformers" ] ||
  npm install --prefix "$npm" --ignore-scripts --silent @huggingface/transformers@4.2.0
cp "$here/decoders.mjs" "$npm"

for checkpoint; do
  name=$(basename "$checkpoint")
  folder=$place/$(basename "$(dirname "$checkpoint")")-$name
  mkdir -p "$folder/onnx"
  "$kilnc" export "$checkpoint" -o "$folder/onnx/model.onnx" --quiet
  # Configurations and tokenizers stand beside the model, as on the Hub.
  find "$checkpoint" -maxdepth 1 \( -name '*config.json' -o -name 'tokenizer*' -o -name 'special_tokens_map.json' \
    -o -name 'vocab.json' -o -name 'merges.txt' \) -exec cp -n {} "$folder" \;
  echo "$(basename "$(dirname "$checkpoint")")/$name"
  python3 "$here/decoders.py" "$folder" "$checkpoint"
  node "$npm/decoders.mjs" "$folder" "$checkpoint"
done
