#!/usr/bin/env bash
# Starts a Slurm cluster of four virtual nodes on this machine and runs suites through `bench submit --to slurm --wait` (tests/submit.rs).
#   tests/slurm.sh                the small suites, two to four minutes
#   tests/slurm.sh --quickstart   suites/quickstart.yaml; TESSERA_NODES=1 (or 2) for fewer virtual nodes
#   tests/slurm.sh COMMAND ...    another command within the cluster
# It needs root and Debian's packages slurm-wlm and munge, which it installs if apt-get can; otherwise it says so and ends with status 0.
# Everything that it starts ends with it.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "SKIPPED: tests/slurm.sh: $*" >&2; exit 0; }
[ "$(uname -s)" = Linux ] || skip "Slurm needs Linux"
[ "$(id -u)" = 0 ] || skip "virtual nodes need root"
unshare -u true 2>/dev/null || skip "this container allows no hostnames of its own (unshare -u)"
if ! command -v slurmctld slurmd munged sbatch >/dev/null; then
  command -v apt-get >/dev/null || skip "no Slurm, and no apt-get to install it"
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends slurm-wlm munge) \
    >/dev/null 2>&1 || skip "apt-get cannot install slurm-wlm and munge"
  # The packages may start services of their own.
  for service in slurmd slurmctld munge; do service "$service" stop >/dev/null 2>&1 || true; done
fi

dir=$(mktemp -d) && chmod 755 "$dir"
pids=()
# Only processes of this cluster: those that were started here, and those in the nodes' own namespaces of hostnames.
in_node() {
  local space=$1 process
  for process in /proc/[0-9]*; do
    [ "$(readlink "$process/ns/uts" 2>/dev/null)" = "$space" ] && echo "${process#/proc/}"
  done
  return 0
}
stop() {
  exec 2>/dev/null
  local space
  for space in $(cat "$dir"/spaces/* 2>/dev/null | sort -u | tr ' ' '\n'); do kill -9 $(in_node "$space") 2>/dev/null || true; done
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for _ in $(seq 50); do jobs -r | grep -q . || break; sleep 0.1; done
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap stop EXIT

count=${TESSERA_NODES:-4}
base=$((20000 + RANDOM % 20000))
mkdir "$dir"/{munge,state,spaces,bin}
chmod 700 "$dir/munge"
dd if=/dev/urandom of="$dir/munge/key" bs=1 count=1024 status=none
chmod 400 "$dir/munge/key"
munged --foreground --force --key-file="$dir/munge/key" --socket="$dir/munge.sock" --pid-file="$dir/munge/pid" \
  --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" >"$dir/munged.out" 2>&1 &
pids+=($!)
# A requeued job may start when its credential has expired: here after seconds, by default after two minutes.
cat >"$dir/slurm.conf" <<CONF
ClusterName=virtual
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$base
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge.sock,cred_expire=8
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000,sched_interval=1,batch_sched_delay=0,kill_invalid_depend
SlurmdTimeout=10
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n[1-$count] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$((base + 1))-$((base + count))] CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf
for _ in $(seq 50); do [ -S "$dir/munge.sock" ] && break; sleep 0.1; done
slurmctld -D >"$dir/slurmctld.out" 2>&1 &
pids+=($!)
for node in $(seq -f n%g "$count"); do
  unshare -u bash -c 'hostname "$1" && readlink /proc/self/ns/uts >"$2/spaces/$1" && exec slurmd -D -N "$1"' \
    node "$node" "$dir" >"$dir/$node.out" 2>&1 &
  pids+=($!)
done
# For tests: ends everything on a node at once, as a power failure would.
cat >"$dir/bin/kill-node" <<KILL
#!/usr/bin/env bash
$(declare -f in_node)
kill -9 \$(in_node "\$(cat "$dir/spaces/\$1")")
KILL
chmod +x "$dir/bin/kill-node"
export PATH=$dir/bin:$PATH
for _ in $(seq 100); do
  [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" = "$count" ] && break
  sleep 0.2
done
if [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" != "$count" ]; then
  tail -n 5 "$dir"/*.out "$dir"/*.log "$dir/munge/log" >&2 || true
  skip "the virtual nodes did not start"
fi

# All test programs with a filter, which is the build of the test command.
case "${1:-}" in
  "") TESSERA_SCHEDULER=slurm cargo test --release --quiet -- --nocapture --test-threads=1 on_a_cluster slurm_ ;;
  --quickstart) TESSERA_SCHEDULER=slurm cargo test --release --quiet -- --nocapture --test-threads=1 --ignored on_a_cluster_the_quickstart ;;
  *) "$@" ;;
esac
