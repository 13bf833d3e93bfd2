#!/usr/bin/env bash
# The fault suite, whole: every call of every kind, 1,000 kills, every file damaged in several places.
set -euo pipefail
cd "$(dirname "$0")/.."
TESSERA_FAULTS=whole cargo test --release --test faults -- "$@"
