#!/usr/bin/env bash
# Checks every GPU code path on a GPU and measures it. No GPU was available when this script was written, so it has never run on one.
#
#   models/kernels/check-gpu.sh build DIR        builds and strips the programs and packs them with what they need into DIR/gpu.tar.xz,
#                                                at most 64 MiB; needs Rust, a CUDA toolkit and xz
#   models/kernels/check-gpu.sh run DIR [STEP..] runs the steps, all by default; needs a GPU, its driver and CUDA 13's libraries (from a
#                                                toolkit or from PyTorch's Python packages), but no Rust and no network
#
# Every step runs under its own time limit, whatever happened before it, with its output in DIR/logs/STEP.log. `run` ends in a table: PASS,
# FAIL, TIMEOUT, NOT RUN or NO DEVICE for each step, and figures beside the values that were predicted. Its exit status is 1 if a step failed
# or ran out of time. Without a GPU every step is NO DEVICE and the exit status is 0.
set -uo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
usage="check-gpu.sh build DIR | run DIR [STEP..]"
verb=${1:?usage: $usage}
dir=${2:?usage: $usage}
shift 2
mkdir -p "$dir" && dir=$(cd "$dir" && pwd) || exit 2

# ---- build

build() (
  set -e
  cd "$here"
  cargo build --release --features cuda
  # Build the whole workspace: a single member has other features, and Candle's kernels would be built again.
  cargo test --release --features cuda --lib --no-run --message-format=json >"$dir/built.json"
  rm -rf "$dir/pack" && mkdir -p "$dir/pack/suites" "$dir/pack/peers"
  for crate in tessera_kernels tessera_models tessera_tokenizers tessera; do
    tests=$(sed -n 's/.*"executable":"\([^"]*\/'"$crate"'-[^"]*\)".*/\1/p' "$dir/built.json" | tail -n 1)
    cp "${tests:?no test program of $crate was built}" "$dir/pack/$crate-tests"
  done
  rm "$dir/built.json"
  cp "${CARGO_TARGET_DIR:-target}/release/bench" "$dir/pack/bench"
  strip "$dir"/pack/*-tests "$dir/pack/bench"
  cp models/kernels/check-gpu.sh "$dir/pack/"
  cp suites/imagenette160.yaml suites/quickstart.yaml "$dir/pack/suites/"
  cp ../shared/peers/torch_pretrain.py "$dir/pack/peers/" || echo "no ../shared/peers: PyTorch will not be timed" >&2
  tar -C "$dir/pack" -cf - . | xz -T0 -6 >"$dir/gpu.tar.xz"
  bytes=$(stat -c %s "$dir/gpu.tar.xz")
  echo "$dir/gpu.tar.xz: $bytes bytes"
  [ "$bytes" -le $((64 << 20)) ] || { echo "gpu.tar.xz has $bytes bytes, expected at most $((64 << 20))" >&2; exit 1; }
)

# ---- run: helpers

rows=()     # "STEP|STATE|SECONDS|NOTE"
figures=()  # "NAME|FOUND|PREDICTED|UNIT"

# Runs a function as a step: `step NAME LIMIT`. The function is `do_NAME`.
step() {
  local name=$1 limit=$2 start=$SECONDS state
  if [ "${#wanted[@]}" -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
  if [ -n "$none" ]; then
    rows+=("$name|NO DEVICE|0|$none")
    return
  fi
  printf '\n== %s\n' "$name"
  # `timeout` starts a program, so the step is a call of this script.
  timeout -k 5 "$limit" bash "$0" step "$dir" "$name" >"$dir/logs/$name.log" 2>&1
  case $? in
    0) state=PASS ;;
    77) state="NOT RUN" ;;
    124 | 137) state=TIMEOUT ;;
    *) state=FAIL ;;
  esac
  tail -n 25 "$dir/logs/$name.log"
  rows+=("$name|$state|$((SECONDS - start))|$(grep -m 1 -E '^NOT RUN|panicked|rror' "$dir/logs/$name.log" | cut -c 1-90)")
  # A step prints its figures as lines "FIGURE name|found|predicted|unit".
  while IFS= read -r line; do figures+=("${line#FIGURE }"); done < <(grep '^FIGURE ' "$dir/logs/$name.log")
}

# Prints a figure: name, value, predicted value, unit. A step without one of its values fails.
figure() {
  echo "FIGURE $1|$2|$3|$4"
  [ -n "$2" ] || lacking=1
}
not_run() { echo "NOT RUN: $*"; exit 77; }

# Runs the tests of a crate whose names contain one of the filters; fails if a filter matches none.
tests() {
  local crate=$1 filter
  shift
  for filter; do
    # `grep -c` reads the whole list, so that the test program never writes into a closed pipe.
    "$dir/$crate-tests" --list "$filter" | grep -c ': test$' >/dev/null || { echo "no test of $crate matches $filter" >&2; return 1; }
  done
  "$dir/$crate-tests" "$@" --test-threads=1
}

# Prints the value that a case of `bench speed` measures on the GPU.
speed() { "$dir/bench" speed "$@" --device cuda --json | tail -n 1 | sed 's/.*"value":\([^,}]*\).*/\1/'; }

needs_peer() { [ -f "$dir/peers/torch_pretrain.py" ] || not_run "no peers/torch_pretrain.py in the package"; }

# Prints images per second of PyTorch's step, with further arguments of torch_pretrain.py.
torch() {
  python3 "$dir/peers/torch_pretrain.py" --device cuda --bf16 --steps 10 "$@" | tail -n 1 | sed 's/.*"value": *\([^,}]*\).*/\1/'
}

# ---- run: steps. Predictions are those of `bench speed pretrain --ledger` for an H100 (BENCHMARKS.md), without waits for launches and copies.
# That of Candle's graph is an estimate by hand.

do_doctor() { "$dir/bench" doctor; }
do_kernels() { tests tessera_kernels device::cuda::tests::numerics device::cuda::tests::vision device::cuda::tests::resident device::launcher; }
do_operations() {
  tests tessera_kernels device::cuda::tests::ops ops::linear::device ops::block::device && tests tessera_models pretrain::tests::gpu pretrain::resident
}
do_harness() { tests tessera_tokenizers kmeans::tests::device && tests tessera a_device_counts_what_the_cpu_counts; }

do_steps() {
  for batch in 256 1024; do
    figure "vit-s-224 bf16, batch $batch" "$(speed pretrain --preset vit-s-224 --batch "$batch" --precision bf16)" 19000 images/s
  done
  figure "vit-b-224 bf16, batch 512" "$(speed pretrain --preset vit-b-224 --batch 512 --precision bf16)" 6700 images/s
  figure "vit-s-224 bf16, batch 256, Candle's graph" \
    "$(TESSERA_GPU_DEFAULTS=graph speed pretrain --preset vit-s-224 --batch 256 --precision bf16)" 6700 images/s
}

do_torch_eager() { needs_peer; figure "PyTorch eager, vit-s-224, batch 1024" "$(torch --preset vit-s-224 --batch 1024)" 6000-10000 images/s; }
do_torch_compiled() { needs_peer; figure "PyTorch compiled, vit-s-224, batch 1024" "$(torch --preset vit-s-224 --batch 1024 --compile)" 9000-15000 images/s; }

# The limits of the device: copies, and bf16 products of the sizes of ViT-S.
do_ceilings() {
  python3 - <<'PY'
import torch, time
def seconds(work, times=20):
    work(); torch.cuda.synchronize(); start = time.perf_counter()
    for _ in range(times): work()
    torch.cuda.synchronize(); return (time.perf_counter() - start) / times
a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda"); b = torch.empty_like(a)
print(f"FIGURE copy|{2 * a.numel() / seconds(lambda: b.copy_(a)) / 1e9:.0f}|2600|GB/s")
for m, k, n in [(51200, 384, 1536), (51200, 384, 1152), (201728, 256, 1024), (8192, 8192, 8192)]:
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16); w = torch.randn(k, n, device="cuda", dtype=torch.bfloat16)
    print(f"FIGURE product {m} x {k} x {n}|{2 * m * k * n / seconds(lambda: x @ w) / 1e12:.0f}|-|TFLOP/s")
PY
}

# What the settings of device/cuda/open.rs are worth, in one call. The default stream per thread may give wrong numbers.
do_settings() {
  for setting in none stream events pool waits stream,events,pool,waits; do
    value=$(TESSERA_GPU_DEFAULTS=$setting speed pretrain --preset vit-s-224 --batch 256 --precision bf16)
    figure "vit-s-224, defaults kept: $setting" "$value" - images/s
  done
}

do_profile() {
  command -v nsys >/dev/null || not_run "no nsys here"
  nsys profile -o "$dir/logs/step" --force-overwrite true "$dir/bench" speed pretrain --preset vit-s-224 --batch 256 --precision bf16 --device cuda
  nsys stats --report cuda_gpu_kern_sum "$dir/logs/step.nsys-rep" | head -n 40
}

do_sanitizer() {
  command -v compute-sanitizer >/dev/null || not_run "no compute-sanitizer here"
  for tool in memcheck racecheck initcheck; do
    echo "-- $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$dir/tessera_kernels-tests" attention layer_norm bias_gelu column_sums resident ops::linear::device ops::block::device --test-threads=1 || return 1
  done
}

do_kernel_times() { RUST_TEST_NOCAPTURE=1 tests tessera_kernels kernels_are_timed; }

do_vision() {
  for preset in 100k-768-50 100k-192-100; do
    figure "K-means $preset" "$(speed kmeans --preset "$preset")" - patches/s
    figure "product of K-means $preset" "$(speed gemm --preset "$preset")" - patches/s
  done
  figure HOG "$(speed hog)" - images/s
  figure "count 8192-100" "$(speed count)" - patches/s
}

# Draws JPEGs of camera size in ten classes.
draw() {
  python3 - "$1" <<'PY'
import os, sys, numpy as np
from PIL import Image
for split, count in (("train", 100), ("val", 20)):
    for c in range(10):
        folder = os.path.join(sys.argv[1], split, f"class{c}"); os.makedirs(folder, exist_ok=True)
        for i in range(count):
            noise = np.random.default_rng(c * 1000 + i).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((213, 160), Image.BICUBIC).save(os.path.join(folder, f"{split}{i}.jpg"), quality=90)
PY
}

bench_run() { # OUT STORE DEVICE ARGUMENTS..
  local out=$1 store=$2 device=$3
  shift 3
  TESSERA_DATA=$dir/data "$dir/bench" run "$dir/suites/imagenette160.yaml" --only "Identity function (MAE)" --only "K-means Pixel, K=50" \
    --set backbone.variant=Ti --device "$device" --out "$dir/$out" --store "$dir/$store" "$@"
}

# Prints filled columns of a run's results.
show() {
  python3 - "$1" <<'PY'
import csv, sys
wanted = "tokenizer status tcas pretrain_loss knn_top1 lp_top1 ft_top1 pretrain_seconds probe_seconds finetune_seconds".split()
for row in csv.DictReader(open(sys.argv[1])):
    print("; ".join(f"{name} {row[name]}" for name in wanted if row.get(name)))
PY
}

do_real() {
  [ -d "$dir/data/imagenette160" ] || draw "$dir/data/imagenette160" || return 1
  bench_run out-cuda store-a cuda --set pretrain.epochs=2 --set pretrain.warmup_epochs=1 --set fine_tune.epochs=2 --set fine_tune.warmup_epochs=1 &&
    show "$dir/out-cuda/results.csv"
}

# Two trainings from empty stores must have equal bytes.
do_equal_bytes() {
  [ -d "$dir/data/imagenette160" ] || draw "$dir/data/imagenette160" || return 1
  for which in a b; do
    rm -rf "$dir/equal-$which" "$dir/out-$which"
    bench_run "out-$which" "equal-$which" cuda --set pretrain.epochs=2 --set pretrain.warmup_epochs=1 --set fine_tune.epochs=2 --set fine_tune.warmup_epochs=1 || return 1
  done
  cmp <(cd "$dir/out-a/cells" && find . -name '*.safetensors' | sort | xargs sha256sum) <(cd "$dir/out-b/cells" && find . -name '*.safetensors' | sort | xargs sha256sum)
}

# ---- run

# Prints the CUDA library folders of Python packages, for the loader and for the search for NVRTC.
libraries() {
  python3 - <<'PY' 2>/dev/null || true
import glob, os, site
roots = site.getsitepackages() + [site.getusersitepackages()]
print(":".join(p for root in roots for p in sorted(glob.glob(os.path.join(root, "nvidia", "*", "lib")))))
PY
}

# Prints why there is no device; nothing if there is one.
missing() {
  [ -x "$dir/bench" ] || { echo "no programs in DIR: unpack gpu.tar.xz there"; return; }
  local said
  said=$("$dir/bench" doctor 2>&1) || { echo "bench does not start: $(tail -n 1 <<<"$said" | cut -c 1-70)"; return; }
  grep '^CUDA' <<<"$said" | grep -oE 'the driver finds no GPU[^;]*|built without CUDA' | head -n 1
}

table() {
  printf '\n%-18s %-10s %8s  %s\n' step state seconds note
  local row ok=0 a b c d
  for row in "${rows[@]}"; do
    IFS='|' read -r a b c d <<<"$row"
    printf '%-18s %-10s %8s  %s\n' "$a" "$b" "$c" "$d"
    case $b in FAIL | TIMEOUT) ok=1 ;; esac
  done
  [ "${#figures[@]}" -eq 0 ] || printf '\n%-44s %14s %14s  %s\n' figure found predicted unit
  for row in ${figures[@]+"${figures[@]}"}; do
    IFS='|' read -r a b c d <<<"$row"
    printf '%-44s %14s %14s  %s\n' "$a" "${b:-none}" "$c" "$d"
  done
  return "$ok"
}

environment() {
  local found nvrtc
  found=$(libraries)
  export LD_LIBRARY_PATH="$found${found:+:}${LD_LIBRARY_PATH:-}" TESSERA_GPU=1
  if [ -z "${TESSERA_NVRTC:-}" ]; then
    nvrtc=$(IFS=:; for folder in $LD_LIBRARY_PATH /usr/local/cuda/lib64; do ls "$folder"/libnvrtc.so.* 2>/dev/null; done | head -n 1)
    [ -z "$nvrtc" ] || export TESSERA_NVRTC=$nvrtc
  fi
}

run() {
  wanted=("$@")
  mkdir -p "$dir/logs"
  environment
  none=$(missing)
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no nvidia-smi here"
  # The sum of the limits exceeds one call of ten minutes; the usual times do not.
  step doctor 20
  step kernels 90
  step operations 90
  step harness 60
  step steps 90
  step torch_eager 60
  step torch_compiled 150
  step ceilings 40
  step settings 90
  step kernel_times 60
  step profile 60
  step sanitizer 90
  step real 90
  step equal_bytes 90
  step vision 60
  table
}

case $verb in
  build | run) "$verb" "$@" ;;
  step) lacking=""; environment; "do_$1" && [ -z "$lacking" ] ;;
  *) echo "expected $usage, found $verb" >&2; exit 2 ;;
esac
