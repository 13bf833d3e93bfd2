#!/usr/bin/env bash
# Checks every GPU code path on a GPU. No GPU was available when this script was written, so it has never run on one.
#
#   models/kernels/check-gpu.sh build DIR   builds the programs into DIR; needs Rust and a CUDA toolkit
#   models/kernels/check-gpu.sh run DIR     runs them; needs a GPU, its driver and CUDA 13's libraries (from a toolkit or from
#                                           PyTorch's Python packages), but no Rust and no network
#
# `run` does the following, in this order:
#   1. compares outputs and gradients of every kernel with the CPU reference, twice for equal bytes: the same test bodies, odd
#      sizes, poisoned outputs and guards that run on the host without a GPU; then Candle's operations, a block and a
#      masked loss with every gradient;
#   2. compares everything built on the kernels with the CPU: K-means steps, fits and ids, pixels and HOG of crops, counting;
#   3. repeats the kernel tests under compute-sanitizer, if installed: memory, races, uninitialised reads;
#   4. times the kernels at the sizes of ViT-S/16 at 224 px, batch 1024; K-means steps, in bytes per second and next to a cuBLAS
#      product of the same sizes; HOG; counting;
#   5. times pretraining steps in f32 and bf16, next to PyTorch eager and compiled if ../shared/peers exists;
#   6. runs two rows of suites/imagenette160.yaml with `bench run` on the GPU, and `bench score` of them on the CPU, if
#      TESSERA_DATA or ../shared/data has the images. EPOCHS (default 20) is the number of pretraining epochs.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
verb=${1:?usage: check-gpu.sh build|run DIR}
dir=${2:?usage: check-gpu.sh build|run DIR}

step() { printf '\n== %s\n' "$*"; }

build() {
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  cd "$here"
  cargo build --release --features cuda
  # Build the whole workspace: a single member has other features, and Candle's kernels would be built again.
  cargo test --release --features cuda --lib --no-run --message-format=json >"$dir/built.json"
  for crate in tessera_kernels tessera_models tessera_tokenizers tessera; do
    tests=$(sed -n 's/.*"executable":"\([^"]*\/'"$crate"'-[^"]*\)".*/\1/p' "$dir/built.json" | tail -n 1)
    cp "${tests:?no test program of $crate was built}" "$dir/$crate-tests"
    strip "$dir/$crate-tests"
  done
  rm "$dir/built.json"
  cp "${CARGO_TARGET_DIR:-target}/release/bench" "$dir/bench"
  strip "$dir/bench"
  ls -l "$dir"
}

# Prints the CUDA library folders of Python packages, for the loader and for the search for NVRTC.
libraries() {
  python3 - <<'PY' 2>/dev/null || true
import glob, os, site, sys
roots = site.getsitepackages() + [site.getusersitepackages()]
print(":".join(p for root in roots for p in sorted(glob.glob(os.path.join(root, "nvidia", "*", "lib")))))
PY
}

# Runs the tests of a crate whose names contain one of the filters; fails if a filter matches none.
tests() {
  local crate=$1 filter
  shift
  for filter; do
    # `grep -c` reads the whole list, so that the test program never writes into a closed pipe.
    "$dir/$crate-tests" --list "$filter" | grep -c ': test$' >/dev/null || { echo "no test of $crate matches $filter" >&2; exit 1; }
  done
  "$dir/$crate-tests" "$@" --test-threads=1
}

run() {
  dir=$(cd "$dir" && pwd)
  found=$(libraries)
  export LD_LIBRARY_PATH="$found${found:+:}${LD_LIBRARY_PATH:-}" TESSERA_GPU=1
  if [ -z "${TESSERA_NVRTC:-}" ]; then
    nvrtc=$(IFS=:; for folder in $LD_LIBRARY_PATH /usr/local/cuda/lib64; do ls "$folder"/libnvrtc.so.* 2>/dev/null || true; done | head -n 1)
    export TESSERA_NVRTC=${nvrtc:?no libnvrtc found; set TESSERA_NVRTC to the library}
  fi
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no nvidia-smi here"
  step the program
  "$dir/bench" doctor
  step kernels against their references
  tests tessera_kernels device::cuda::tests::numerics device::cuda::tests::vision device::cuda::tests::ops device::launcher
  tests tessera_models pretrain::tests::gpu
  step K-means, features and counting against the CPU
  tests tessera_tokenizers kmeans::tests::device
  tests tessera a_device_counts_what_the_cpu_counts
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
      step "compute-sanitizer $tool"
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$dir/tessera_kernels-tests" \
        device::cuda::tests::numerics device::cuda::tests::vision --test-threads=1
    done
  else
    step "compute-sanitizer not found: NOT RUN"
  fi
  step kernels timed
  RUST_TEST_NOCAPTURE=1 tests tessera_kernels kernels_are_timed
  speeds
  steps
  real
  step "done"
}

# Prints the value that a case of `bench speed` measures on the GPU.
speed() {
  "$dir/bench" speed "$@" --device cuda --json | tail -n 1 | sed 's/.*"value":\([^,}]*\).*/\1/'
}

# Prints K-means steps per second. Each of a step's three kernels reads the rows once.
speeds() {
  for preset in 100k-768-50 100k-192-100; do
    step "K-means $preset"
    ours=$(speed kmeans --preset "$preset")
    product=$(speed gemm --preset "$preset")
    awk -v ours="$ours" -v product="$product" -v preset="$preset" 'BEGIN {
      split(preset, of, "-"); dim = of[2]; k = of[3]
      printf "step    %10.1f M patches/s %8.1f GB/s of rows %8.2f TFLOP/s\n", ours / 1e6, ours * dim * 12 / 1e9, ours * dim * k * 2 / 1e12
      printf "product %10.1f M patches/s %8.1f GB/s of rows %8.2f TFLOP/s (cuBLAS, f32)\n", product / 1e6, product * dim * 4 / 1e9, product * dim * k * 2 / 1e12
      printf "step / product %.2f\n", ours / product
    }'
  done
  step HOG and counting
  echo "hog 224: $(speed hog) images/s; count 8192-100: $(speed count) patches/s"
}

steps() {
  peer=$here/../shared/peers/torch_pretrain.py
  for case in "vit-s-224 1024" "vit-b-224 512"; do
    read -r preset batch <<<"$case"
    for precision in f32 bf16; do
      step "ours, $preset $batch $precision"
      "$dir/bench" speed pretrain --preset "$preset" --batch "$batch" --device cuda --precision "$precision"
    done
    if [ -f "$peer" ]; then
      for how in "" --compile; do
        step "PyTorch $preset $batch $how"
        # shellcheck disable=SC2086
        python3 "$peer" --preset "$preset" --batch "$batch" --device cuda --bf16 $how --steps 10
      done
    else
      step "no ../shared/peers: PyTorch NOT RUN"
    fi
  done
}

# Prints the filled columns of a run's results.
show() {
  python3 - "$1" tokenizer status tcas pretrain_loss knn_top1 lp_top1 ft_top1 fit_seconds count_seconds pretrain_seconds \
    finetune_seconds <<'PY'
import csv, sys
for row in csv.DictReader(open(sys.argv[1])):
    print("; ".join(f"{name} {row[name]}" for name in sys.argv[2:] if row[name]))
PY
}

real() {
  export TESSERA_DATA=${TESSERA_DATA:-$here/../shared/data}
  if [ ! -d "$TESSERA_DATA/imagenette160" ]; then
    step "no $TESSERA_DATA/imagenette160: the real run NOT RUN"
    return
  fi
  rows=(--only "Identity function (MAE)" --only "K-means Pixel, K=50")
  suite=$here/suites/imagenette160.yaml
  step "imagenette160 on the GPU, ${EPOCHS:=20} epochs of pretraining"
  "$dir/bench" run "$suite" "${rows[@]}" --set "pretrain.epochs=$EPOCHS" --device cuda --out "$dir/cuda" --store "$dir/store"
  step "its training-free half on the CPU"
  "$dir/bench" score "$suite" "${rows[@]}" --device cpu --out "$dir/cpu" --store "$dir/store"
  show "$dir/cuda/results.csv"
  show "$dir/cpu/results.csv"
}

case $verb in
  build | run) "$verb" ;;
  *) echo "check-gpu.sh build|run DIR, found $verb" >&2; exit 2 ;;
esac
