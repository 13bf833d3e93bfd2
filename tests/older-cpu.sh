#!/usr/bin/env bash
# Tests the program on emulated older processors: AVX2 (Haswell) and baseline x86-64 (Nehalem). The program is built once and
# chooses its instruction set at run time. The emulator does not support AVX-512.
#
#     cargo build --release && tests/older-cpu.sh [BENCH]
#
# Runs the kernels' tests and a small `bench run` (metrics, pretraining, linear probing) in f32 and bf16, compares its metrics with those of
# this machine, and says which stages stored the same bytes in f32. Keys must hold the instruction set for all others. bf16 is emulated there,
# and the run must say so. Needs qemu-x86_64 (Debian: qemu-user) and takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
bench=$(realpath "${1:-target/release/bench}")
if ! command -v qemu-x86_64 >/dev/null; then
  echo "older-cpu.sh: SKIPPED, nothing was checked: no qemu-x86_64 here (apt-get install qemu-user)"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo test --release -p tessera-kernels --lib --no-run --message-format=json 2>/dev/null >"$work/built"
tests=$(grep -o '"executable":"[^"]*/tessera_kernels-[^"]*"' "$work/built" | cut -d'"' -f4 | head -1)
[ -x "$tests" ] || { echo "older-cpu.sh: no test binary of tessera-kernels was built"; exit 1; }

cat >"$work/suite.yaml" <<'END'
version: 1
name: older
seeds: [0]
dataset: {kind: mosaics, seed: 0, train: 12, val: 6, size: 32}
image_size: 32
patch_size: 4
eval_transform: {resize_shorter: 32, crop: 32}
backbone: {variant: nano}
tokenizers:
  - {name: "K-means Pixel", kind: kmeans, with: {features: {kind: pixels}, k: 8, epochs: 2}}
  - {name: "HOG", kind: continuous, with: {features: {kind: hog}}}
  - {name: "K-means HOG", kind: kmeans, with: {features: {kind: hog}, k: 8, epochs: 2}}
baselines: [no-pretraining]
pretrain: {epochs: 1, batch: 12, base_lr: 1.0e-3, warmup_epochs: 0, weight_decay: 0.05, mask_ratio: 0.75, augment: random-resized-crop}
knn: {k: 3, temperature: 0.07}
linear_probe: {epochs: 1, batch: 12, base_lr: 0.1, pooling: cls, warmup_epochs: 0}
END

run() { # NAME COMMAND... [-- OPTION...]: a run into its own folder and store
  local name=$1 command=()
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do command+=("$1"); shift; done
  "${command[@]}" run "$work/suite.yaml" "${@:2}" --out "$work/$name" --store "$work/$name-store" --threads 2 >"$work/$name.log" 2>&1 ||
    { tail -20 "$work/$name.log"; echo "older-cpu.sh: FAILED on $name"; exit 1; }
}

result() { sed -n '/^  "result"/,/^  "files"/p' "$1/result.json"; }

same() { # CPU: stages by whether the result and every file of every entry are equal
  local stage about other file equal
  for stage in "$work/here-store"/*/; do
    stage=$(basename "$stage")
    equal=equal
    for about in "$work/here-store/$stage"/*/provenance.json; do
      [ -e "$about" ] || continue
      # Keys differ, labels do not.
      other=$(grep -lF "$(grep '"label"' "$about")" "$work/$1-store/$stage"/*/provenance.json | head -1)
      other=$(dirname "$other")
      [ "$(result "$(dirname "$about")")" = "$(result "$other")" ] || equal=DIFFERENT
      for file in "$(dirname "$about")"/*; do
        case $(basename "$file") in provenance.json | result.json) continue ;; esac
        cmp -s "$file" "$other/$(basename "$file")" || equal=DIFFERENT
      done
    done
    printf 'older-cpu.sh: %s: bytes of %-14s %s\n' "$1" "$stage" "$equal"
  done
}

losses() { # RUN: the losses of pretraining, a row each
  awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "pretrain_loss") at = i; next } $at != "" { print $at }' "$work/$1/results.csv"
}

near() { # RUN RUN: whether all losses differ by at most 1e-4; emulated sums are rounded in another order
  paste <(losses "$1") <(losses "$2") | awk '
    { off = $1 - $2; if (off < 0) off = -off; if (NF != 2 || off > 1e-4) bad = 1; rows++ }
    END { exit bad || rows < 3 }'
}

run here "$bench"
run here-bf16 "$bench" -- --precision bf16
for cpu in Haswell Nehalem; do
  # Suppress thousands of warnings about features that the emulator lacks and the program does not use.
  emulated() { qemu-x86_64 -cpu "$cpu" "$@" 2> >(grep -v 'TCG doesn.t support' >&2); }
  emulated "$tests" -q --skip cuda
  run "$cpu" emulated "$bench"
  "$bench" compare "$work/here" "$work/$cpu" || { echo "older-cpu.sh: $cpu differs"; exit 1; }
  same "$cpu"
  run "$cpu-bf16" emulated "$bench" -- --precision bf16
  grep -q 'lacks AVX-512 BF16' "$work/$cpu-bf16.log" && grep -q ',bf16-emulated,' "$work/$cpu-bf16/results.csv" ||
    { echo "older-cpu.sh: $cpu does not say that it emulates bf16"; exit 1; }
  "$bench" compare "$work/here-bf16" "$work/$cpu-bf16" && near here-bf16 "$cpu-bf16" ||
    { echo "older-cpu.sh: $cpu differs in bf16"; exit 1; }
  echo "older-cpu.sh: $cpu ok"
done
