#!/usr/bin/env bash
# Measures memory and time of `bench score` on 1, 4 and 16 times as many images. The peak must be constant and the time proportional.
#
#     cargo build --release && tests/stream.sh [BENCH] [IMAGES]
#
# Prints a line per size: seconds and peak of the whole process, then of every stage (costs.csv), in MiB. Linux only.
set -euo pipefail
bench=$(realpath "${1:-target/release/bench}")
images=${2:-1600}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

suite() {
  cat <<END
version: 1
name: stream
seeds: [0]
dataset: {kind: mosaics, seed: 0, train: $1, val: 40, size: 32}
image_size: 32
patch_size: 4
eval_transform: {resize_shorter: 32, crop: 32}
backbone: {variant: nano}
tokenizers:
  - {name: "K-means Pixel, K=50", kind: kmeans, with: {features: {kind: pixels}, k: 50, epochs: 3}}
  - {name: "K-means HOG, K=200", kind: kmeans, with: {features: {kind: hog}, k: 200, epochs: 3}}
END
}

# The program resets its peak at every stage, so this function samples it and returns the maximum.
watch() {
  local peak=0 now
  while now=$(awk '/VmHWM/ {print $2}' "/proc/$1/status" 2>/dev/null) && [ -n "$now" ]; do
    if [ "$now" -gt "$peak" ]; then peak=$now; fi
    sleep 0.02
  done
  echo "$peak"
}

low= high=
printf '%8s %9s %9s   %s\n' images seconds 'peak MiB' 'stages: seconds, MiB'
for times in 1 4 16; do
  suite $((times * images)) > suite.yaml
  start=$(date +%s.%N)
  "$bench" score suite.yaml --out "run-$times" --store "store-$times" > log 2>&1 &
  pid=$!
  peak=$(watch $pid)
  wait $pid || { cat log; exit 1; }
  seconds=$(echo "$(date +%s.%N) - $start" | bc)
  stages=$(awk -F, 'NR > 1 {n = NF; printf "%s %.1f s %.1f; ", $(n-3), $(n-2), $(n-1)}' "run-$times/costs.csv")
  printf '%8d %9.1f %9.1f   %s\n' $((times * images)) "$seconds" "$(echo "$peak / 1024" | bc -l)" "$stages"
  if [ -z "$low" ] || [ "$peak" -lt "$low" ]; then low=$peak; fi
  if [ -z "$high" ] || [ "$peak" -gt "$high" ]; then high=$peak; fi
done
printf 'highest peak over lowest: %.3f\n' "$(echo "$high / $low" | bc -l)"
