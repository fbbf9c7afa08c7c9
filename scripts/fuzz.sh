#!/usr/bin/env bash
# Fuzzes every reader, or those named, for so many seconds each:
#   scripts/fuzz.sh [SECONDS [TARGET…]]
# Or makes the corpus small again, after a run has added to it: the 64 files that together reach the most code.
#   scripts/fuzz.sh --minimize [TARGET…]
# Needs `cargo install cargo-fuzz` and a C++ compiler; any toolchain does. What crashes is left in fuzz/artifacts;
# fix it, and keep it as a test. The first build takes minutes: all that kilnc links is compiled for the fuzzer.
set -euo pipefail
cd "$(dirname "$0")/.."

first="${1:-60}"
shift || true
targets=("$@")
# The versions of the main build, and what the fuzzer itself needs.
cp Cargo.lock fuzz/Cargo.lock
if [ ${#targets[@]} = 0 ]; then
  mapfile -t targets < <(cargo fuzz list)
fi
# Every run adds what it finds to fuzz/corpus/TARGET.
limits=(-max_len=2048 -timeout=60 -rss_limit_mb=2048)

for target in "${targets[@]}"; do
  corpus="fuzz/corpus/$target"
  mkdir -p "$corpus"
  if [ "$first" = --minimize ]; then
    small="$(mktemp -d)"
    cargo fuzz run --sanitizer none "$target" "$small" "$corpus" -- -set_cover_merge=1 -use_counters=0 "${limits[@]}"
    # They are written in the order in which they were chosen: what adds most comes first.
    rm -f "$corpus"/*
    ls -tr "$small" | head -n 64 | while read -r file; do cp "$small/$file" "$corpus/"; done
    rm -r "$small"
  else
    words=()
    case "$target" in
      config | tokenizer | graph) words=("-dict=fuzz/dictionaries/$target.dict") ;;
      torch_*) words=(-dict=fuzz/dictionaries/torch.dict) ;;
    esac
    cargo fuzz run --sanitizer none "$target" "$corpus" -- -max_total_time="$first" "${limits[@]}" "${words[@]}"
  fi
done
