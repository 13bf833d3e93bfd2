#!/usr/bin/env bash
# Builds the wheel of python/, installs it into a fresh environment, and runs python/tests.
# Without Python or a network it says so and ends with status 0. TESSERA_WHEEL_EXTRAS="torch pandas onnxruntime onnx" installs these too, for the
# tests that need them.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "SKIPPED: tests/wheel.sh: $*" >&2; exit 0; }
command -v python3 >/dev/null || skip "no python3"
target=${CARGO_TARGET_DIR:-$PWD/target}
builder=$target/maturin
[ -e "$builder/done" ] || (python3 -m venv "$builder" && "$builder/bin/pip" install -q maturin==1.16.0 && touch "$builder/done") >/dev/null 2>&1 ||
  skip "pip cannot install maturin"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$builder/bin/maturin" build --release --locked --quiet -m python/Cargo.toml -o "$dir" --interpreter python3
python3 -m venv "$dir/env"
# shellcheck disable=SC2086 # several names
"$dir/env/bin/pip" install -q "$dir"/*.whl ${TESSERA_WHEEL_EXTRAS:-}
# A user's programs see the installed package, not this folder.
cp -R python/tests python/examples "$dir"
mkdir "$dir/pages"
cp docs/python.md docs/onnx.md python/README.md "$dir/pages"
cd "$dir"
for tests in tests/test_*.py; do
  "$dir/env/bin/python" "$tests"
done
