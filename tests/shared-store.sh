#!/usr/bin/env bash
# Runs the program on file systems that break what programs rely on: two bindfs mounts of one folder, whose locks do not see each other, and
# two GlusterFS clients, which cache names, also those of absent files. Two processes compute one suite at the same time, one is killed at a
# random moment and started again. Every process must end with status 0 and the right results, and every entry must be there and whole.
#
#     cargo build --release && tests/shared-store.sh [quick|whole] [BENCH]
#
# `quick` takes a minute; `whole` kills 200 times on each and takes half an hour. Needs root, unshare and /dev/fuse. Installs bindfs and
# glusterfs-server with apt-get where it can, and says what is absent. Mounts are in a namespace of its own and end with it.
set -euo pipefail
form=${1:-quick}
bench=$(realpath "${2:-$(dirname "$0")/../target/release/bench}")
skip() { echo "shared-store.sh: SKIPPED, $1"; }
[ -x "$bench" ] || { echo "shared-store.sh: no program at $bench; run cargo build --release"; exit 1; }
if [ "$(id -u)" != 0 ] || [ ! -e /dev/fuse ] || ! unshare -m true 2>/dev/null; then
  skip "nothing was checked: needs root, unshare and /dev/fuse"
  exit 0
fi
if [ -z "${SHARED_STORE_INSIDE:-}" ]; then
  for need in bindfs:bindfs glusterfsd:glusterfs-server; do
    command -v "${need%:*}" >/dev/null || ! command -v apt-get >/dev/null ||
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need#*:}" >/dev/null 2>&1 || true
  done
  SHARED_STORE_INSIDE=1 exec unshare -m --propagation private bash "$0" "$form" "$bench"
fi

case $form in
  quick) rounds=8 cached=3 ;;
  whole) rounds=200 cached=30 ;;
  *) echo "shared-store.sh: found \`$form\`, expected quick or whole"; exit 2 ;;
esac
work=$(mktemp -d)
brick=
finish() {
  for mount in "$work"/mounts/*; do umount -l "$mount" 2>/dev/null || true; done
  [ -z "$brick" ] || kill "$brick" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
RANDOM=7
mkdir -p "$work/real" "$work/brick" "$work"/mounts/{bind-a,bind-b,gluster-a,gluster-b}

cat >"$work/suite.yaml" <<'END'
version: 1
name: shared
seeds: [0]
dataset: {kind: mosaics, seed: 3, train: 16, val: 8, size: 8}
image_size: 8
patch_size: 4
eval_transform: {resize_shorter: 8, crop: 8}
backbone: {variant: nano}
tokenizers:
  - {name: K, kind: kmeans, with: {features: {kind: pixels}, k: 3, epochs: 1, batch: 8}}
pretrain: {epochs: 3, batch: 8, base_lr: 1.0e-3, warmup_epochs: 1, weight_decay: 0.05, mask_ratio: 0.75, augment: fixed-view}
knn: {k: 2, temperature: 0.07}
linear_probe: {epochs: 2, batch: 8, base_lr: 0.1, pooling: cls, warmup_epochs: 1, augment: none}
fine_tune: {epochs: 1, batch: 8, base_lr: 1.0e-3, layer_decay: 0.75, pooling: mean, warmup_epochs: 0.5}
report: {tables: [1]}
END
cd "$work"

fail() { # MESSAGE [LOG...]
  echo "shared-store.sh: FAILED, $1"
  shift
  [ $# = 0 ] || tail -n 20 "$@"
  exit 1
}
run() { exec "$bench" run suite.yaml --threads 1 --checkpoint-every 0 --out "$1" --store "$2" >"$1.log" 2>&1; }
numbers() { # results.csv without the columns of seconds; no field of this suite has a comma
  awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) keep[i] = $i !~ /_seconds$/ } { for (i = 1; i <= NF; i++) if (keep[i]) printf "%s,", $i; print "" }' \
    "$1/results.csv"
}
pause() { sleep "$(awk "BEGIN { print $1 / 1000 }")"; } # MILLISECONDS

start=$(date +%s%N)
(run expected "$work/expected-store") || fail "the run without company" expected.log
length=$((($(date +%s%N) - start) / 1000000))

must_be_right() { # OUT ROUND
  [ "$(numbers "$1")" = "$(numbers expected)" ] || fail "$2: other results than those of one process" "$1.log"
}

round() { # NAME A B FOLDER-BELOW NUMBER
  local store=store-$5 outs=(a b) stores pids=() victim=$((RANDOM % 2)) one at
  stores=("$2/$store" "$3/$store")
  rm -rf a b after
  for one in 0 1; do
    (run "${outs[$one]}" "${stores[$one]}") &
    pids[one]=$!
    pause $((RANDOM % (length / 2 + 1)))
  done
  pause $((RANDOM % (length + 1)))
  kill -KILL "${pids[$victim]}" 2>/dev/null || true
  wait "${pids[$victim]}" 2>/dev/null || true
  (run "${outs[$victim]}" "${stores[$victim]}") &
  pids[victim]=$!
  for one in 0 1; do
    wait "${pids[$one]}" || fail "$1 round $5: status $? of ${outs[$one]}" "${outs[$one]}.log"
    must_be_right "${outs[$one]}" "$1 round $5"
    # bindfs can give old and new pages of resume state that the other process replaces: then the stage restarts, and nothing else is lost.
    ! grep -v "^resume state of" "${outs[$one]}.log" | grep -q "is damaged" || fail "$1 round $5: damage" "${outs[$one]}.log"
  done
  # The folder below the mounts has every stage: another run computes nothing.
  "$bench" plan suite.yaml --store "$4/$store" --json >plan.json 2>plan.log || fail "$1 round $5: plan" plan.log
  [ "$(grep -c '"stored": false' plan.json)" = 1 ] || fail "$1 round $5: a stage is lost (only collect is never stored)" plan.json
  (run after "$4/$store") || fail "$1 round $5: a run afterwards" after.log
  must_be_right after "$1 round $5 afterwards"
  [ -z "$(ls -A "$4/$store/.damaged" "$4/$store/.tmp" 2>/dev/null | grep -v -e : -e '^state-' || true)" ] || fail "$1 round $5: something is left in .damaged or .tmp"
  rm -rf "${4:?}/$store"
}

nodes() { # NAME A B: every node on the other machine than the one before it
  local at=0 id stores
  stores=("$2/nodes" "$3/nodes")
  # Both machines look for every entry before it is there.
  for store in "${stores[@]}"; do
    "$bench" plan suite.yaml --store "$store" --json >plan.json 2>plan.log || fail "$1 nodes: plan" plan.log
  done
  sed -n 's/^ *"id": "\(.*\)",$/\1/p' plan.json | grep -v '^collect$' >ids
  while read -r id; do
    "$bench" run suite.yaml --threads 1 --store "${stores[$((at % 2))]}" --node "$id" >node.log 2>&1 </dev/null ||
      fail "$1: status $? of node $id, whose inputs are stored" node.log
    at=$((at + 1))
  done <ids
  rm -rf out
  "$bench" run suite.yaml --store "${stores[$((at % 2))]}" --out out --collect >out.log 2>&1 || {
    sleep "$cached" # Nothing tells the last machine that names have appeared.
    "$bench" run suite.yaml --store "${stores[$((at % 2))]}" --out out --collect >out.log 2>&1 || fail "$1: collect" out.log
  }
  must_be_right out "$1 node by node"
  echo "shared-store.sh: $1: $at nodes, each on the other machine than the one before it: ok"
}

trial() { # NAME A B FOLDER-BELOW
  local number
  for number in $(seq "$rounds"); do round "$1" "$2" "$3" "$4" "$number"; done
  echo "shared-store.sh: $1: $rounds interleavings with SIGKILL: ok"
  nodes "$1" "$2" "$3"
}

mounts=$work/mounts
if command -v bindfs >/dev/null; then
  bindfs "$work/real" "$mounts/bind-a" && bindfs "$work/real" "$mounts/bind-b"
  ! (exec 9>"$mounts/bind-a/lock" && flock -n 9 && flock -n "$mounts/bind-b/lock" true) && fail "bindfs: its locks see each other; the test says nothing"
  trial bindfs "$mounts/bind-a" "$mounts/bind-b" "$work/real"
else
  skip "bindfs: not installed"
fi

volume() { # NAME TYPE OPTION...
  printf 'volume %s\n  type %s\n' "$1" "$2"
  shift 2
  printf '  option %s\n' "$@"
}
if command -v glusterfsd >/dev/null && command -v glusterfs >/dev/null; then
  port=$((20000 + RANDOM))
  {
    volume posix storage/posix "directory $work/brick"; echo end-volume
    printf 'volume locks\n  type features/locks\n  subvolumes posix\nend-volume\n'
    printf 'volume brick\n  type performance/io-threads\n  subvolumes locks\nend-volume\n'
    volume server protocol/server "transport-type tcp" "transport.socket.bind-address 127.0.0.1" "transport.socket.listen-port $port" \
      "auth.addr.brick.allow 127.0.0.1" "auth-path brick"
    printf '  subvolumes brick\nend-volume\n'
  } >server.vol
  {
    volume client protocol/client "transport-type tcp" "remote-host 127.0.0.1" "remote-port $port" "remote-subvolume brick"; echo end-volume
  } >client.vol
  glusterfsd -N -f "$work/server.vol" -l "$work/server.log" &
  brick=$!
  for mount in gluster-a gluster-b; do
    for attempt in 1 2 3 4 5; do
      sleep 1
      glusterfs -f "$work/client.vol" -l "$work/$mount.log" "--negative-timeout=$cached" "--entry-timeout=$cached" \
        "--attribute-timeout=$cached" "$mounts/$mount" || true
      sleep 1
      ! mountpoint -q "$mounts/$mount" || ! ls "$mounts/$mount" >/dev/null 2>&1 || break
      umount -l "$mounts/$mount" 2>/dev/null || true
    done
  done
  if mountpoint -q "$mounts/gluster-a" && mountpoint -q "$mounts/gluster-b"; then
    [ ! -e "$mounts/gluster-b/name" ] && touch "$mounts/gluster-a/name" && [ -e "$mounts/gluster-b/name" ] &&
      fail "GlusterFS: its clients cache no names; the test says nothing"
    trial GlusterFS "$mounts/gluster-a" "$mounts/gluster-b" "$work/brick"
  else
    skip "GlusterFS: its clients cannot be mounted here"
  fi
else
  skip "GlusterFS: not installed"
fi
