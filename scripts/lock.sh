#!/usr/bin/env bash
# Resolve requirements/*.in into fully pinned locks, and see that the CPU lock also resolves for Python 3.12.
# Asks the package indexes that pip is configured with. `lock.sh --check` writes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
[[ -x $uv ]] || { echo "lock: $uv is missing; run 'make setup' first" >&2; exit 4; }
pip_setting() { .venv/bin/python -m pip config get "global.$1" 2>/dev/null | tr -s ' \n' "$2" | sed "s/$2\$//"; }
use_pips() {
  local value=${!1:-$(pip_setting "$2" "$3")}
  [[ -z $value ]] || export "$1=$value"
}
use_pips UV_INDEX_URL index-url ' '
use_pips UV_EXTRA_INDEX_URL extra-index-url ' '
use_pips UV_FIND_LINKS find-links ,
options=(--python-platform x86_64-manylinux_2_35 --index-strategy unsafe-best-match --no-annotate --no-header --quiet
  --no-emit-index-url --no-emit-find-links)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# torch's CPU builds stand on PyTorch's own index; it is asked only when the configured ones do not have them.
compile() {
  "$uv" pip compile "${options[@]}" "$@" 2>"$work/error" && return
  "$uv" pip compile "${options[@]}" --extra-index-url https://download.pytorch.org/whl/cpu "$@" && return
  cat "$work/error" >&2
  return 1
}

no_local_paths() {
  if grep -nE '@|file:|/' "$1"; then
    echo "lock: $1 holds a path or an address (above); only name==version may stand in a lock" >&2
    return 1
  fi
}

check_312() {
  # Elsewhere torch==2.13.0+cpu has a 3.12 build; where it cannot be had, plain 2.13.0 stands in for the resolution.
  grep -v '^torch==' requirements/cpu.lock >"$work/constraints.txt"
  sed 's/^torch==.*/torch==2.13.0/' requirements/cpu.in >"$work/cpu312.in"
  { cat requirements/overrides.txt; echo 'torch==2.13.0'; grep '^triton==' requirements/cpu.lock; } >"$work/overrides.txt"
  compile "$work/cpu312.in" --constraint "$work/constraints.txt" --override "$work/overrides.txt" \
    --python-version 3.12 --only-binary :all: --no-binary deepspeed --no-binary cellpylib --no-binary zss \
    --output-file "$work/cpu312.lock" >/dev/null
  diff <(grep -vE '^(torch|nvidia-|cuda-)' "$work/cpu312.lock" | sort) <(grep -v '^torch==' requirements/cpu.lock | sort) ||
    { echo "lock: cpu.lock does not resolve to the same pins on Python 3.12 (above)" >&2; return 1; }
  echo "lock: cpu.lock resolves on Python 3.12 ($(wc -l <requirements/cpu.lock) pins)"
}

if [[ ${1:-} == --check ]]; then
  no_local_paths requirements/cpu.lock
  no_local_paths requirements/gpu.lock
  no_local_paths requirements/bundle.lock
  check_312
  exit
fi
compile requirements/cpu.in --override requirements/overrides.txt --python-version 3.11 --output-file "$work/cpu.lock" >/dev/null
no_local_paths "$work/cpu.lock"
cp "$work/cpu.lock" requirements/cpu.lock
compile requirements/gpu.in --python-version 3.12 --output-file "$work/gpu.lock" >/dev/null
no_local_paths "$work/gpu.lock"
cp "$work/gpu.lock" requirements/gpu.lock
compile requirements/bundle.in --override requirements/bundle-overrides.txt --python-version 3.12 --output-file "$work/bundle.lock" >/dev/null
no_local_paths "$work/bundle.lock"
cp "$work/bundle.lock" requirements/bundle.lock
check_312
