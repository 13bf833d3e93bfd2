#!/usr/bin/env bash
# Checks every GPU code path on a GPU and measures it. No GPU was available when this script was written, so it has never run on one.
#
#   models/kernels/check-gpu.sh build DIR        builds and strips the programs and packs them with what they need into DIR/gpu.tar.xz, and
#                                                says whether it fits; needs Rust, a CUDA toolkit and xz
#   models/kernels/check-gpu.sh size DIR         says again whether DIR/gpu.tar.xz fits
#   models/kernels/check-gpu.sh run DIR [STEP..] runs the steps, all by default; needs a GPU, its driver and CUDA 13's libraries (from a
#                                                toolkit or from PyTorch's Python packages), but no Rust and no network
#   models/kernels/check-gpu.sh list             prints the names of the steps (check-gpu-steps.sh beside this file), in their order
#
# On a lent machine that gets a copy of the checkout, at most 64 MiB with what the call carries, for at most ten minutes a call:
#
#   1. Here, in the root of the checkout that travels: `echo /.gpu/ >>.git/info/exclude`, then `check-gpu.sh build .gpu`.
#   2. Here: `git sparse-checkout set --no-cone '/*' '!/results/'` removes results/ (50 MB) from the copied files, not from the repository.
#      `check-gpu.sh size .gpu` must say that all fits. After the call, `git sparse-checkout disable` restores the files.
#   3. There, with carry [".gpu"] and a limit of 600 s, this one command:
#      mkdir -p /tmp/g && { [ -x /tmp/g/bench ] || python3 -m tarfile -e .gpu/gpu.tar.xz /tmp/g; } && bash /tmp/g/check-gpu.sh run /tmp/g
#      A second call is best made at once, while the machine is warm, with the names of the steps that were NOT RUN. With fifteen minutes in all,
#      `TESSERA_BUDGET=420 bash ...` in the first call leaves time for it.
#   4. Back come the end of the output (the table), $OUT/table.txt and $OUT/logs.tgz with the log of every step.
#
# `run` stops after TESSERA_BUDGET seconds (540). Every step runs under a limit of its own or the time left, whichever is shorter, whatever
# happened before it, with its output in DIR/logs/STEP.log. The table and the archive of logs are written again after every step, and the
# table is printed at the end or when the script is told to stop: PASS, FAIL, TIMEOUT, NOT RUN or NO DEVICE for each step, figures beside
# the values that were predicted for this card, and the goals. The exit status is 1 if a step failed or ran out of time, a goal was missed, or a
# card cannot be used, and 2 for a step that does not exist. Without a card every step is NO DEVICE and the exit status is 0.
set -uo pipefail
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
here=$(cd "$(dirname "$0")/../.." && pwd)
usage="check-gpu.sh build DIR | size DIR | run DIR [STEP..] | list"
verb=${1:?usage: $usage}
source "${self%.sh}-steps.sh" || exit 2
if [ "$verb" = list ]; then
  printf '%s\n' "${steps[@]%% *}"
  exit
fi
dir=${2:?usage: $usage}
shift 2
mkdir -p "$dir" && dir=$(cd "$dir" && pwd) || exit 2

# ---- build

most=$((64 << 20))  # bytes of a copied checkout and what is carried with it

build() (
  set -e
  cd "$here"
  cargo build --release --features cuda
  # Build the whole workspace: a single member has other features, and Candle's kernels would be built again.
  built=$(mktemp -d)
  trap 'rm -rf "$built"' EXIT
  cargo test --release --features cuda --lib --no-run --message-format=json >"$built/built.json"
  mkdir -p "$built/pack/suites" "$built/pack/peers"
  for crate in tessera_kernels tessera_models tessera_tokenizers tessera; do
    tests=$(sed -n 's/.*"executable":"\([^"]*\/'"$crate"'-[^"]*\)".*/\1/p' "$built/built.json" | tail -n 1)
    cp "${tests:?no test program of $crate was built}" "$built/pack/$crate-tests"
  done
  cp "${CARGO_TARGET_DIR:-target}/release/bench" "$built/pack/bench"
  strip "$built"/pack/*-tests "$built/pack/bench"
  cp models/kernels/check-gpu.sh models/kernels/check-gpu-steps.sh "$built/pack/"
  cp suites/imagenette160.yaml "$built/pack/suites/"
  git rev-parse HEAD >"$built/pack/commit"
  cp ../shared/peers/torch_pretrain.py "$built/pack/peers/" || echo "no ../shared/peers: PyTorch will not be timed" >&2
  # The programs have most of their code in common. A dictionary larger than all of them stores it once.
  tar -C "$built/pack" -cf - . | xz -T1 --lzma2=preset=9e,dict=256MiB >"$dir/gpu.tar.xz"
  size
)

# Prints the bytes of the files of the checkout that are there: those of git, and new ones that it does not ignore.
checkout_bytes() {
  (cd "$here" && git ls-files -z --cached --others --exclude-standard "$@" | sort -zu | xargs -0 -r stat -c %s 2>/dev/null || true) |
    awk '{ all += $1 } END { print all + 0 }'
}

# Says whether the checkout and the package fit.
size() {
  local packed checkout results free
  packed=$(stat -c %s "$dir/gpu.tar.xz") || return 2
  checkout=$(checkout_bytes) results=$(checkout_bytes results)
  free=$((most - checkout - packed))
  printf '%-42s %10d bytes\n' "$dir/gpu.tar.xz" "$packed" "the checkout's files" "$checkout" "  of which results/" "$results" "left of 64 MiB" "$free"
  [ "$free" -lt 0 ] || return 0
  echo "checkout and package are $((-free)) bytes too large; without results/ (head of this script), $((free + results)) bytes are left" >&2
  return 1
}

# ---- run: steps

rows=()     # "STEP|STATE|SECONDS|NOTE"
figures=()  # "NAME|FOUND|PREDICTED|UNIT"
child=""    # process of the step that runs
lacking=""  # set if a step has not got a value of its figures

# Prints the seconds left of the budget.
left() { echo $((budget - SECONDS)); }

# Returns whether a step was asked for.
is_wanted() { [ "${#wanted[@]}" -eq 0 ] || [[ " ${wanted[*]} " == *" $1 "* ]]; }

# Runs the function do_NAME as a step: `step NAME LIMIT`.
step() {
  local name=$1 limit=$2 start=$SECONDS state most
  is_wanted "$name" || return 0
  if [ -n "$none" ]; then
    rows+=("$name|$none")
    return
  fi
  most=$(($(left) - 10))
  if [ "$most" -lt 10 ] && [ "$most" -lt "$limit" ]; then
    rows+=("$name|NOT RUN|0|no time left")
    return
  fi
  [ "$limit" -le "$most" ] || limit=$most
  printf '\n== %s (at most %d s, %d s left)\n' "$name" "$limit" "$(left)"
  # `timeout` starts a program, so the step is a call of this script. A signal ends `wait`, but not a program in the foreground.
  timeout -k 5 "$limit" bash "$self" step "$dir" "$name" >"$dir/logs/$name.log" 2>&1 &
  child=$!
  wait "$child"
  case $? in
    0) state=PASS ;;
    77) state="NOT RUN" ;;
    124 | 137) state=TIMEOUT ;;
    *) state=FAIL ;;
  esac
  child=""
  tail -n 15 "$dir/logs/$name.log" | cut -c 1-300
  rows+=("$name|$state|$((SECONDS - start))|$(note "$name")")
  # A step prints its figures as lines "FIGURE name|found|predicted|unit".
  while IFS= read -r line; do figures+=("${line#FIGURE }"); done < <(grep '^FIGURE ' "$dir/logs/$name.log")
  keep
}

# Prints the line of a step's log that says why it did not pass. Names of tests that passed are no reason.
note() {
  grep -vE '\.\.\. (ok|ignored)$' "$dir/logs/$1.log" | grep -m 1 -E '^NOT RUN|panicked|[Ee]rror' | tr '|' '/' | cut -c 1-110
}

# ---- run: table

# Prints the found value of a figure.
found() {
  local row
  for row in ${figures[@]+"${figures[@]}"}; do
    [[ "$row" == "$1|"* ]] || continue
    row=${row#*|}
    echo "${row%%|*}"
    return
  done
}

# Prints a goal, `goal NAME VALUE LEAST`: PASS, or FAIL with status 1, or NOT RUN without a value.
goal() {
  local state="NOT RUN" status=0
  if [[ "$2" =~ ^[0-9.]+$ ]]; then
    state=$(awk -v found="$2" -v least="$3" 'BEGIN { print (found >= least) ? "PASS" : "FAIL" }')
    [ "$state" = PASS ] || status=1
  fi
  printf '%-44s %14s %14s  %s\n' "$1" "${2:-none}" "$3" "$state"
  return "$status"
}

# Prints the first number times the second over the third; nothing if one is no number.
ratio() {
  awk -v a="$1" -v b="$2" -v c="$3" 'BEGIN { if (a + 0 > 0 && b + 0 > 0 && c + 0 > 0) printf "%.3f", a * b / c }'
}

# Prints the goals for one H100 or H200. The rate of the products of ViT-B is images/s times TFLOP an image.
goals() {
  local ours status=0
  ours=$(found "vit-s-224 bf16, batch 1024")
  printf '\n%-44s %14s %14s  %s\n' goal found "at least" state
  goal "ViT-S, batch 1024: ours / PyTorch eager" "$(ratio "$ours" 1 "$(found "PyTorch eager, vit-s-224, batch 1024")")" 1.5 || status=1
  goal "ViT-S, batch 1024: ours / PyTorch compiled" "$(ratio "$ours" 1 "$(found "PyTorch compiled, vit-s-224, batch 1024")")" 1.0 || status=1
  goal "ViT-B, batch 512: share of the product rate" \
    "$(ratio "$(found "vit-b-224 bf16, batch 512")" "$(found "vit-b-224 products")" "$(found "product 8192 x 8192 x 8192")")" 0.35 || status=1
  return "$status"
}

# Prints the table. The status is 1 if a step failed or ran out of time, or a goal was missed.
table() {
  local row ok=0 a b c d
  printf '\n%s; %s; %d s of %d\n' "${card:-no card}" "commit $(cat "$dir/commit" 2>/dev/null || echo unknown)" "$SECONDS" "$budget"
  printf '\n%-18s %-10s %8s  %s\n' step state seconds note
  for row in "${rows[@]}"; do
    IFS='|' read -r a b c d <<<"$row"
    printf '%-18s %-10s %8s  %s\n' "$a" "$b" "$c" "$d"
    case $b in FAIL | TIMEOUT) ok=1 ;; esac
  done
  [ "${#figures[@]}" -gt 0 ] || return "$ok"
  printf '\n%-44s %14s %14s  %s\n' figure found predicted unit
  for row in "${figures[@]}"; do
    IFS='|' read -r a b c d <<<"$row"
    printf '%-44s %14s %14s  %s\n' "$a" "${b:-none}" "$c" "$d"
  done
  goals || ok=1
  return "$ok"
}

# Writes the table and the archive of all logs, so that they exist even if this script is killed.
keep() {
  local out=${OUT:-$dir}
  table >"$out/.table.txt"
  mv "$out/.table.txt" "$out/table.txt"
  [ "$out" = "$dir" ] || cp "$out/table.txt" "$dir/table.txt"
  (cd "$dir" && find logs -type f -size -10M -print0 | tar -czf "$out/.logs.tgz" --null -T - table.txt) 2>/dev/null &&
    mv "$out/.logs.tgz" "$out/logs.tgz"
}

# Ends the step that runs, then prints the table.
finish() {
  local status=$?
  trap - EXIT TERM INT HUP
  [ -z "$child" ] || { kill -TERM "$child" 2>/dev/null; rows+=("interrupted|FAIL|$SECONDS|a signal ended the script"); }
  keep
  table || status=1
  exit "$status"
}

# ---- run

# Prints the CUDA library folders of Python packages and of the driver, for the loader and for the search for NVRTC.
libraries() {
  python3 - <<'PY' 2>/dev/null || true
import glob, os, site
roots = site.getsitepackages() + [site.getusersitepackages()]
found = [p for root in roots for p in sorted(glob.glob(os.path.join(root, "nvidia", "*", "lib")))]
driver = [p for p in ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/local/cuda/lib64") if os.path.isdir(p)]
print(":".join(found + driver))
PY
}

environment() {
  local found nvrtc
  found=$(libraries)
  export LD_LIBRARY_PATH="$found${found:+:}${LD_LIBRARY_PATH:-}" TESSERA_GPU=1 XDG_CACHE_HOME="$dir/cache"
  # A shell that is no login shell may lack the toolkit's programs.
  local folder
  for folder in /usr/local/cuda/bin /opt/nvidia/nsight-compute/*; do [ ! -d "$folder" ] || PATH=$PATH:$folder; done
  if [ -z "${TESSERA_NVRTC:-}" ]; then
    nvrtc=$(IFS=:; for folder in $LD_LIBRARY_PATH /usr/local/cuda/lib64; do ls "$folder"/libnvrtc.so.* 2>/dev/null; done | head -n 1)
    [ -z "$nvrtc" ] || export TESSERA_NVRTC=$nvrtc
  fi
}

# Prints name, driver and memory of the first card; nothing without one.
describe_card() {
  local said
  if said=$(timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null); then
    head -n 1 <<<"$said"
  elif [ -e /dev/nvidia0 ]; then
    echo "a card that nvidia-smi does not describe"
  fi
}

# Prints why programs cannot use a device; nothing if they can.
missing() {
  [ -x "$dir/bench" ] || { echo "no programs in DIR: unpack gpu.tar.xz there"; return; }
  local said absent
  if ! said=$(timeout 30 "$dir/bench" doctor 2>&1); then
    absent=$(ldd "$dir/bench" 2>/dev/null | awk '/not found/ { print $1 }' | tr '\n' ' ')
    echo "bench does not start: ${absent:+missing }${absent:-$(tail -n 1 <<<"$said" | cut -c 1-120)}"
    return
  fi
  grep '^CUDA' <<<"$said" | grep -oE '[^ ]* driver finds no GPU[^;]*|built without CUDA' | head -n 1
}

# Trains a few steps of a small model. If the driver refuses a setting of device/cuda/open.rs, all other steps keep the driver's default for it.
try_settings() {
  local kept said start=$SECONDS
  for kept in "" waits pool waits,pool,events; do
    if said=$(TESSERA_GPU_DEFAULTS=$kept timeout -k 5 60 "$dir/bench" speed pretrain --preset vit-ti-32 --precision bf16 --device cuda 2>&1); then
      export TESSERA_GPU_DEFAULTS=$kept
      rows+=("start|PASS|$((SECONDS - start))|${kept:+keeps the defaults of $kept}")
      return
    fi
    echo "$said" >>"$dir/logs/start.log"
  done
  rows+=("start|FAIL|$((SECONDS - start))|$(note start)")
}

# Refuses names that are no steps.
check_wanted() {
  local name known=" ${steps[*]%% *} "
  for name in ${wanted[@]+"${wanted[@]}"}; do
    [[ "$known" == *" $name "* ]] || { echo "found step $name, expected one of:$known" >&2; exit 2; }
  done
}

run() {
  wanted=("$@")
  check_wanted
  budget=${TESSERA_BUDGET:-540}
  mkdir -p "$dir/logs"
  trap finish EXIT
  trap 'exit 143' TERM INT HUP
  environment
  card=$(describe_card)
  echo "${card:-no card here}"
  none=$(missing | tr '|' '/')
  if [ -n "$none" ] && [ -n "$card" ]; then
    rows+=("device|FAIL|$SECONDS|$none")
    none="NOT RUN|0|the card cannot be used"
  elif [ -n "$none" ]; then
    none="NO DEVICE|0|$none"
  fi
  [ -n "$none" ] || try_settings
  local each
  for each in "${steps[@]}"; do step $each; done
}

case $verb in
  build | size | run) "$verb" "$@" ;;
  step) environment; "do_$1" && [ -z "$lacking" ] ;;
  *) echo "expected $usage, found $verb" >&2; exit 2 ;;
esac
