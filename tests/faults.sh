#!/usr/bin/env bash
# The fault suite, whole: every call of every kind, 1,000 kills, every file damaged in several places.
set -euo pipefail
cd "$(dirname "$0")/.."
# Every run waits for the disk at each fsync. In memory the suite took 18 minutes in place of 71; `cargo test` tries the quick form on the disk.
[ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] && export TMPDIR=/dev/shm
TESSERA_FAULTS=whole cargo test --release --test faults -- "$@"
