#!/usr/bin/env bash
# Every check that needs no stack; all of them run, then the failed ones are named.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
code=(quorum configs data rollout voting learner orchestration benchmarks tests scripts)
failed=()

check() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  "$@" || failed+=("$name")
  echo "   $((SECONDS - start)) s"
}

check "ruff check" "$bin/ruff" check "${code[@]}"
check "ruff format" "$bin/ruff" format --check "${code[@]}"
check "mypy --strict quorum configs voting" "$bin/mypy"
check "codespell" "$bin/codespell" "${code[@]}" docs README.md ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md
[[ ${1:-} == --static ]] || check "fast tests" "$bin/python" -m pytest tests/unit tests/contracts -q -m "not stack and not all and not gpu"
if ((${#failed[@]})); then
  printf 'check: failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
