#!/usr/bin/env bash
# Runs suites through `bench submit --to hq --wait` on a HyperQueue server with two workers (tests/submit.rs).
# With a program `hq` on the PATH this is a real server. Otherwise it is the LocalCluster of the PyPI package `hyperqueue`, and tests/hq.py
# stands for `hq`: it reads the same job file, but with Python's parser.
# Without either it says so and ends with status 0. Everything that it starts ends with it.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "SKIPPED: tests/hq.sh: $*" >&2; exit 0; }
dir=$(mktemp -d)
pids=()
stop() {
  exec 9>&-
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for _ in $(seq 50); do jobs -r | grep -q . || break; sleep 0.1; done
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap stop EXIT
export HQ_SERVER_DIR=$dir/server
mkdir "$HQ_SERVER_DIR" "$dir/bin"

if command -v hq >/dev/null; then
  hq server start >"$dir/server.log" 2>&1 &
  pids+=($!)
  for _ in $(seq 50); do hq --output-mode json job list >/dev/null 2>&1 && break; sleep 0.1; done
  for worker in 1 2; do
    hq worker start --cpus 1 >"$dir/worker-$worker.log" 2>&1 &
    pids+=($!)
  done
  # For tests: ends the first worker at once, as a power failure would. HyperQueue's tasks end with their worker.
  printf '#!/bin/sh\nexec kill -9 %s\n' "${pids[1]}" >"$dir/bin/kill-worker"
  chmod +x "$dir/bin/kill-worker"
  export PATH=$dir/bin:$PATH TESSERA_KILLS_WORKERS=1
else
  python3 -c 'import tomllib' 2>/dev/null || skip "neither hq nor Python 3.11"
  venv=$PWD/target/hyperqueue
  [ -e "$venv/done" ] || (python3 -m venv "$venv" && "$venv/bin/pip" install -q hyperqueue==0.27.0 && touch "$venv/done") >/dev/null 2>&1 ||
    skip "no hq, and pip cannot install hyperqueue"
  printf '#!/bin/sh\nexec %q %q "$@"\n' "$venv/bin/python" "$PWD/tests/hq.py" >"$dir/bin/hq"
  chmod +x "$dir/bin/hq"
  export PATH=$dir/bin:$PATH
  mkfifo "$dir/open"
  hq cluster 2 <"$dir/open" >"$dir/cluster.log" 2>&1 &
  pids+=($!)
  exec 9>"$dir/open"
  for _ in $(seq 100); do grep -q ready "$dir/cluster.log" && break; sleep 0.1; done
  grep -q ready "$dir/cluster.log" || { cat "$dir/cluster.log" >&2; skip "LocalCluster did not start"; }
fi

# All test programs with a filter, which is the build of the test command.
case "${1:-}" in
  "") TESSERA_SCHEDULER=hq cargo test --release --quiet -- --nocapture --test-threads=1 on_a_cluster ;;
  *) "$@" ;;
esac
