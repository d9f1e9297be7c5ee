#!/usr/bin/env bash
# On Python 3.12: the base package installs from source, its unit tests pass, and the CPU lock resolves.
# Skipped, with a word, where there is no Python 3.12.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON312:-}
candidates() {
  type -ap python3.12 || true
  # pyenv's shim answers only for versions that are switched on; its other versions are as good.
  if command -v pyenv >/dev/null; then
    pyenv whence python3.12 2>/dev/null | while read -r version; do echo "$(pyenv prefix "$version")/bin/python3.12"; done
  fi
}
if [[ -z $python ]]; then
  for candidate in $(candidates); do
    if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then python=$candidate && break; fi
  done
fi
if [[ -z $python ]]; then
  echo "test-312: skipped, no working python3.12 with venv on PATH (PYTHON312=... names one)"
  exit 0
fi
environment=.venv-312
[[ -x $environment/bin/python ]] || "$python" -m venv "$environment"
pip=("$environment/bin/python" -m pip install -qq --disable-pip-version-check)
# The base package with the versions of the lock, then the test runner.
grep -v '^torch==' requirements/cpu.lock >"$environment/constraints.txt"
"${pip[@]}" --constraint "$environment/constraints.txt" . pytest pytest-timeout hypothesis jsonschema
"$environment/bin/python" -m pytest -q -m "not stack and not all and not gpu" --import-mode=importlib \
  tests/unit/quorum tests/unit/configs tests/unit/voting tests/unit/data tests/unit/test_errors.py
bash scripts/lock.sh --check
