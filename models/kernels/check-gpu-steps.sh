# The steps of check-gpu.sh, which reads this file: first what shows that numbers are right and how fast training is, last what takes long or
# depends on other tools. A step is a function `do_NAME`; its exit status is 0 if it passed and 77 if it cannot run here.

# Name and longest seconds of every step, in order. The sum exceeds one call of ten minutes, usual times should not; what finds no time left is
# NOT RUN and can be named alone in the next call.
steps=(
  "doctor 20"
  "kernels 75"
  "steps 120"
  "torch_eager 60"
  "ceilings 40"
  "launches 40"
  "operations 75"
  "torch_compiled 170"
  "profile 75"
  "real 90"
  "equal_bytes 100"
  "settings 105"
  "memcheck 50"
  "racecheck 50"
  "kernel_times 45"
  "vision 45"
  "harness 45"
)

# ---- helpers

# Prints a figure: name, value, predicted value, unit. A step without one of its values fails.
figure() {
  report "$@"
  [ -n "$2" ] || { lacking=1; echo "error: no value of $1"; }
}

# Prints a figure that may be absent.
report() { echo "FIGURE $1|$2|$3|$4"; }

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

# Prints the first number of a field in a line of JSON.
field() { grep -oE "\"$1\": *[0-9.eE+-]+" | head -n 1 | sed 's/.*: *//'; }

# Prints the value that a case of `bench speed` measures on the GPU.
speed() { "$dir/bench" speed "$@" --device cuda --json | tail -n 1 | field value; }

# Prints the images per second that the ledger predicts for this card, `predicted PRESET BATCH [OPTIONS]`; `-` for a card without a prediction.
predicted() {
  local name
  name=$(timeout 20 nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | grep -oE 'H100|H200' | head -n 1)
  [ -n "$name" ] || { echo -; return; }
  "$dir/bench" speed pretrain --preset "$1" --batch "$2" "${@:3}" --ledger --json | field "$name[^\"]*" | sed 's/\..*//' | grep . || echo -
}

# Prints the TFLOP of an image's products.
products() {
  "$dir/bench" speed pretrain --preset "$1" --batch "$2" --ledger --json | grep -oE '"flops": *[0-9]+' |
    awk -v batch="$2" '{ sub(/.*: */, ""); all += $0 } END { if (all > 0) printf "%.6f", all / batch / 1e12 }'
}

needs_peer() { [ -f "$dir/peers/torch_pretrain.py" ] || not_run "no peers/torch_pretrain.py in the package"; }

# Prints images per second of PyTorch's step, with further arguments of torch_pretrain.py.
torch() { python3 "$dir/peers/torch_pretrain.py" --device cuda --bf16 --steps 10 "$@" | tail -n 1 | field value; }

# ---- steps. Predictions are those of `bench speed pretrain --ledger` for the card, without waits for launches and copies. That of Candle's graph
# and those of PyTorch are estimates by hand for an H100.

do_doctor() { "$dir/bench" doctor; }
do_kernels() { tests tessera_kernels device::cuda::tests::numerics device::cuda::tests::vision device::cuda::tests::resident device::launcher; }
do_operations() {
  tests tessera_kernels device::cuda::tests::ops ops::linear::device ops::block::device && tests tessera_models pretrain::tests::gpu pretrain::resident
}
do_harness() { tests tessera_tokenizers kmeans::tests::device && tests tessera a_device_counts_what_the_cpu_counts; }

do_steps() {
  local batch value
  for batch in 1024 256; do
    value=$(speed pretrain --preset vit-s-224 --batch "$batch" --precision bf16)
    figure "vit-s-224 bf16, batch $batch" "$value" "$(predicted vit-s-224 "$batch")" images/s
  done
  value=$(speed pretrain --preset vit-b-224 --batch 512 --precision bf16)
  figure "vit-b-224 bf16, batch 512" "$value" "$(predicted vit-b-224 512)" images/s
  report "vit-b-224 products" "$(products vit-b-224 512)" - TFLOP/image
  value=$(speed pretrain --preset vit-s-224 --batch 1024 --precision bf16 --residual-stream f32)
  report "residual stream f32, vit-s-224, batch 1024" "$value" \
    "$(predicted vit-s-224 1024 --residual-stream f32)" images/s
  value=$(TESSERA_GPU_DEFAULTS=graph,${TESSERA_GPU_DEFAULTS:-} speed pretrain --preset vit-s-224 --batch 256 --precision bf16)
  report "vit-s-224 bf16, batch 256, Candle's graph" "$value" 6700 images/s
}

do_torch_eager() {
  needs_peer
  figure "PyTorch eager, vit-s-224, batch 1024" "$(torch --preset vit-s-224 --batch 1024)" 6000-10000 images/s
}

do_torch_compiled() {
  needs_peer
  figure "PyTorch compiled, vit-s-224, batch 1024" "$(torch --preset vit-s-224 --batch 1024 --compile)" 9000-15000 images/s
}

# The limits of the device: copies, and bf16 products of the sizes of ViT-S. Values seen elsewhere on an H200: 4300 GB/s, 770-800 TFLOP/s.
do_ceilings() {
  python3 - <<'PY' || return 1
import torch, time
def seconds(work, times=20):
    work(); torch.cuda.synchronize(); start = time.perf_counter()
    for _ in range(times): work()
    torch.cuda.synchronize(); return (time.perf_counter() - start) / times
copied = {"H200": "4300", "H100": "2600"}.get((torch.cuda.get_device_name().split() + ["-"])[1], "-")
a = torch.empty(4 << 30, dtype=torch.uint8, device="cuda"); b = torch.empty_like(a)
print(f"FIGURE copy|{2 * a.numel() / seconds(lambda: b.copy_(a)) / 1e9:.0f}|{copied}|GB/s")
for m, k, n in [(51200, 384, 1536), (51200, 384, 1152), (201728, 256, 1024), (8192, 8192, 8192)]:
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16); w = torch.randn(k, n, device="cuda", dtype=torch.bfloat16)
    print(f"FIGURE product {m} x {k} x {n}|{2 * m * k * n / seconds(lambda: x @ w) / 1e12:.0f}|-|TFLOP/s")
PY
}

# The ledger of a real step, with the time of every kind of call: calls, bytes, microseconds, and the rates that follow.
do_launches() {
  local said
  said=$("$dir/bench" speed pretrain --preset vit-s-224 --batch 1024 --ledger --device cuda) || return 1
  echo "$said"
  figure "launches of a step" "$(grep -oE '[0-9]+ launches' <<<"$said" | head -n 1 | cut -d' ' -f1)" 573 -
  figure "products whose bias or sums other launches compute" "$(grep -oE '[0-9]+ products without a bias' <<<"$said" | cut -d' ' -f1)" 0 -
}

# What the settings of device/cuda/open.rs and CUDA graphs are worth, in one call. The default stream per thread may give wrong numbers, or none.
do_settings() {
  local setting
  for setting in none stream events pool waits stream,events,pool,waits; do
    report "vit-s-224, defaults kept: $setting" \
      "$(TESSERA_GPU_DEFAULTS=$setting speed pretrain --preset vit-s-224 --batch 256 --precision bf16)" - images/s
  done
  local preset batch
  while read -r preset batch; do
    report "$preset, batch $batch, every launch alone" "$(speed pretrain --preset "$preset" --batch "$batch" --precision bf16)" - images/s
    report "$preset, batch $batch, as a CUDA graph" \
      "$(TESSERA_CUDA_GRAPH=on speed pretrain --preset "$preset" --batch "$batch" --precision bf16)" - images/s
  done <<<$'vit-ti-32 128\nvit-s-224 64\nvit-s-224 256'
}

# Time and memory traffic of every kernel of about one step, by its counters. Where ncu cannot read them, the step `launches` has times.
do_profile() {
  command -v ncu >/dev/null || not_run "no ncu here"
  ncu --clock-control none --metrics gpu__time_duration.sum,dram__bytes.sum --launch-skip 630 --launch-count 590 --csv --print-units base \
    "$dir/bench" speed pretrain --preset vit-s-224 --batch 256 --precision bf16 --device cuda >"$dir/logs/ncu.csv" 2>"$dir/logs/ncu.log"
  cat "$dir/logs/ncu.log"
  if grep -qE 'LibraryNotLoaded|ERR_NVGPUCTRPERM|[Ff]ailed to initialize|not supported' "$dir/logs/ncu.log" "$dir/logs/ncu.csv"; then
    not_run "ncu cannot read the counters here"
  fi
  python3 - "$dir/logs/ncu.csv" <<'PY'
import collections, csv, sys
lines = [line for line in open(sys.argv[1]) if line.startswith('"')]
kernels = collections.defaultdict(lambda: [set(), 0.0, 0.0])
for row in csv.DictReader(lines):
    of, value = kernels[row["Kernel Name"][:90]], float(row["Metric Value"].replace(",", "") or 0)
    of[0].add(row["ID"])
    of[1 if "time" in row["Metric Name"] else 2] += value
assert kernels, "no kernel was profiled"
for name, (ids, ns, moved) in sorted(kernels.items(), key=lambda item: -item[1][1]):
    print(f"{ns / 1e3:10.1f} us {len(ids):5} calls {moved / 1e9:8.3f} GB {moved / max(ns, 1):8.1f} GB/s  {name}")
print(f"FIGURE traffic of 590 kernels, batch 256|{sum(v[2] for v in kernels.values()) / 1e9:.1f}|36.0|GB")
print(f"FIGURE time of 590 kernels, batch 256|{sum(v[1] for v in kernels.values()) / 1e6:.2f}|11.7|ms")
PY
}

# Runs one tool of compute-sanitizer over kernels of our own with tests that compute no product by a library.
sanitize() {
  command -v compute-sanitizer >/dev/null || not_run "no compute-sanitizer here"
  local status tests=device::cuda::tests::numerics
  compute-sanitizer --tool "$1" --error-exitcode 1 "$dir/tessera_kernels-tests" --exact --test-threads=1 \
    "$tests::attention_and_its_gradient" "$tests::layer_norm_and_its_gradients" >"$dir/logs/$1.txt" 2>&1
  status=$?
  tail -n 40 "$dir/logs/$1.txt"
  if [ "$status" -ne 0 ] && grep -qiE 'not supported' "$dir/logs/$1.txt"; then not_run "compute-sanitizer does not support this machine"; fi
  return "$status"
}
do_memcheck() { sanitize memcheck; }
do_racecheck() { sanitize racecheck; }

do_kernel_times() { RUST_TEST_NOCAPTURE=1 tests tessera_kernels kernels_are_timed; }

do_vision() {
  local preset
  for preset in 100k-768-50 100k-192-100; do
    figure "K-means $preset" "$(speed kmeans --preset "$preset")" - patches/s
    figure "product of K-means $preset" "$(speed gemm --preset "$preset")" - patches/s
  done
  figure HOG "$(speed hog)" - images/s
  figure "count 8192-100" "$(speed count)" - patches/s
}

# Draws JPEGs of 500 x 375 pixels in ten classes: 1280 to train on, 100 to evaluate.
draw() {
  python3 - "$1" <<'PY'
import multiprocessing, os, sys, numpy as np
from PIL import Image
def one(job):
    split, c, i = job
    noise = np.random.default_rng(c * 1000 + i + 500 * (split == "val")).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    path = os.path.join(sys.argv[1], split, f"class{c}", f"{split}{i}.jpg")
    Image.fromarray(noise).resize((500, 375), Image.BICUBIC).save(path, quality=90)
jobs = [(split, c, i) for split, count in (("train", 128), ("val", 10)) for c in range(10) for i in range(count)]
for split, c, _ in jobs: os.makedirs(os.path.join(sys.argv[1], split, f"class{c}"), exist_ok=True)
with multiprocessing.Pool() as pool: pool.map(one, jobs, 32)
PY
}

# Pretrains ViT-S/16 at 224 pixels and evaluates it: `bench_run NAME`, with a store of its own.
bench_run() {
  [ -d "$dir/data/imagenette160/val" ] || draw "$dir/data/imagenette160" || return 1
  rm -rf "$dir/out-$1" "$dir/store-$1"
  TESSERA_DATA=$dir/data "$dir/bench" run "$dir/suites/imagenette160.yaml" --only "Identity function (MAE)" --device cuda \
    --out "$dir/out-$1" --store "$dir/store-$1" --set image_size=224 --set patch_size=16 --set "eval_transform={resize_shorter: 256, crop: 224}" \
    --set backbone.variant=S --set pretrain.batch=256 --set pretrain.epochs=4 --set pretrain.warmup_epochs=1 --set linear_probe.epochs=20 \
    --set linear_probe.warmup_epochs=2 --set fine_tune.epochs=2 --set fine_tune.warmup_epochs=1
}

# Prints filled columns of a run's results, and images/s of its pretraining: four epochs of 1280 images.
show() {
  python3 - "$1" <<'PY'
import csv, sys
wanted = "tokenizer status device dtype pretrain_loss knn_top1 lp_top1 ft_top1 pretrain_seconds probe_seconds finetune_seconds".split()
for row in csv.DictReader(open(sys.argv[1])):
    print("; ".join(f"{name} {row[name]}" for name in wanted if row.get(name)))
    if row["tokenizer"].startswith("Identity"):
        assert row["status"] == "ok", row["error"]
        print(f"FIGURE bench run: pretraining with its start|{4 * 1280 / float(row['pretrain_seconds']):.0f}|-|images/s")
        print(f"FIGURE bench run: fine-tuning with its start|{2 * 1280 / float(row['finetune_seconds']):.0f}|-|images/s")
PY
}

# A whole run from JPEG files, to compare with `steps` at batch 256. 16 threads decode about 7000 of the files a second.
do_real() { bench_run a && show "$dir/out-a/results.csv"; }

# Two runs from empty stores must have equal bytes. The first is that of the step `real`, if it has ended.
do_equal_bytes() {
  [ -f "$dir/out-a/results.csv" ] || bench_run a || return 1
  bench_run b || return 1
  local sums
  sums=$(cd "$dir/out-a/cells" && find . -name '*.safetensors' | sort | xargs -r sha256sum)
  [ -n "$sums" ] || { echo "no weights were stored" >&2; return 1; }
  diff <(echo "$sums") <(cd "$dir/out-b/cells" && find . -name '*.safetensors' | sort | xargs -r sha256sum)
}
