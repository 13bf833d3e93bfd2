#!/usr/bin/env bash
# The CUDA kernels on a GPU. This script has never run on one: no GPU was at hand when it was written.
#
#   models/kernels/check-gpu.sh build DIR   where there is Rust and a CUDA toolkit: the programs to carry, into DIR
#   models/kernels/check-gpu.sh run DIR     where there is a GPU: needs the driver and CUDA 13's libraries (a toolkit's, or
#                                           those that PyTorch's Python packages bring), no Rust, no network
#
# `run` is, in this order:
#   1. every kernel against its CPU reference, output and gradients: the bodies that run on the host without a GPU, with
#      their odd sizes, poisoned outputs and guards, twice each for equal bytes; then Candle's operations, a block and a
#      masked loss with every gradient against the CPU;
#   2. the same under compute-sanitizer where it is found: memory, races, uninitialised reads;
#   3. kernels timed at the sizes of ViT-S/16 at 224 px, batch 1024;
#   4. a step of pretraining in bf16, ours and PyTorch's (where ../shared/peers is at hand), eager and compiled, in this
#      order for each size, so that nothing but the program changes between them.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
verb=${1:?usage: check-gpu.sh build|run DIR}
dir=${2:?usage: check-gpu.sh build|run DIR}

step() { printf '\n== %s\n' "$*"; }

build() {
  mkdir -p "$dir"
  cd "$here"
  cargo build --release --features cuda
  # Of the whole workspace: on its own a member has other features, and candle's kernels would be built again.
  cargo test --release --features cuda --lib --no-run --message-format=json >"$dir/built.json"
  tests=$(sed -n 's/.*"executable":"\([^"]*tessera_models-[^"]*\)".*/\1/p' "$dir/built.json" | tail -n 1)
  rm "$dir/built.json"
  cp "${tests:?no test program of tessera-models was built}" "$dir/kernel-tests"
  cp "${CARGO_TARGET_DIR:-target}/release/bench" "$dir/bench"
  strip "$dir/kernel-tests" "$dir/bench"
  ls -l "$dir"
}

# Folders of CUDA libraries in Python's packages: the loader and NVRTC's search take them.
libraries() {
  python3 - <<'PY' 2>/dev/null || true
import glob, os, site, sys
roots = site.getsitepackages() + [site.getusersitepackages()]
print(":".join(p for root in roots for p in sorted(glob.glob(os.path.join(root, "nvidia", "*", "lib")))))
PY
}

run() {
  dir=$(cd "$dir" && pwd)
  found=$(libraries)
  export LD_LIBRARY_PATH="$found${found:+:}${LD_LIBRARY_PATH:-}" TESSERA_GPU=1
  if [ -z "${TESSERA_NVRTC:-}" ]; then
    nvrtc=$(IFS=:; for folder in $LD_LIBRARY_PATH /usr/local/cuda/lib64; do ls "$folder"/libnvrtc.so.* 2>/dev/null; done | head -n 1)
    export TESSERA_NVRTC=${nvrtc:?no libnvrtc found; let TESSERA_NVRTC name it}
  fi
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no nvidia-smi here"
  step the program
  "$dir/bench" doctor
  step kernels against their references
  all="kernels::cuda::tests::numerics kernels::cuda::tests::vision kernels::cuda::tests::ops"
  # shellcheck disable=SC2086
  "$dir/kernel-tests" $all --test-threads=1
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
      step "compute-sanitizer $tool"
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$dir/kernel-tests" \
        kernels::cuda::tests::numerics kernels::cuda::tests::vision --test-threads=1
    done
  else
    step "compute-sanitizer is not here: NOT RUN"
  fi
  step kernels timed
  "$dir/kernel-tests" kernels_are_timed --nocapture
  peer=$here/../shared/peers/torch_pretrain.py
  [ -f "$peer" ] || step "no ../shared/peers here: PyTorch NOT RUN"
  for case in "vit-s-224 1024" "vit-b-224 512"; do
    read -r preset batch <<<"$case"
    step "a step of $preset at batch $batch"
    "$dir/bench" speed pretrain --preset "$preset" --batch "$batch" --device cuda --precision bf16 --json
    [ -f "$peer" ] || continue
    for how in "" --compile; do
      # shellcheck disable=SC2086
      python3 "$peer" --preset "$preset" --batch "$batch" --device cuda --bf16 $how --steps 10
    done
  done
  step done
}

case $verb in
  build | run) "$verb" ;;
  *) echo "check-gpu.sh build|run DIR, found $verb" >&2; exit 2 ;;
esac
