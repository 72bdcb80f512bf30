#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Lint, format, types, then every test; all four run, and any of them failing fails the whole.
# Arguments go to pytest. The results are also left in build/test-results.xml.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
failed=()

# step NAME COMMAND...
step() {
    local name=$1
    shift
    printf '== %s\n' "$name"
    "$@" || failed+=("$name")
}

rm -f build/test-results.xml
step "ruff check" $python -m ruff check .
step "ruff format --check" $python -m ruff format --check .
if $python -c 'import pyfuse3' 2>/dev/null; then
    step "mypy --strict" $python -m mypy --strict src
else
    echo "== mypy --strict: not run, pyfuse3 is not installed"
fi
step "pytest" $python -m pytest --continue-on-collection-errors --junitxml=build/test-results.xml "$@"

if [ ${#failed[@]} -gt 0 ]; then
    (IFS=,; printf 'failed: %s\n' "${failed[*]}" >&2)
    exit 1
fi
