#!/usr/bin/env bash
# Make .venv with the pinned CPU stack and this project, editable. A second call reuses what is there.
# Needs Python 3.11 or 3.12 with venv; no compiler. PYTHON=... names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly NEEDED_DISK_GIB=6 WANTED_MEMORY_GIB=10

fail() {
  echo "setup: $1" >&2
  echo "  fix: $2" >&2
  exit 4
}

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    is_supported "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.11 or 3.12" "name one that is, or unset PYTHON"
    command -v "$PYTHON"
    return
  fi
  for candidate in python3.11 python3.12 python3; do
    if command -v "$candidate" >/dev/null && is_supported "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or 3.12 on PATH" "sudo apt-get install python3.11 python3.11-venv (Ubuntu 24.04: python3.12 python3.12-venv)"
}

check_machine() {
  local version free_gib memory_gib
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$1" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$1 cannot make virtual environments (its venv module is not installed)" "sudo apt-get install python$version-venv"
  free_gib=$(($(df --output=avail -k . | tail -1) / 1048576))
  ((free_gib >= NEEDED_DISK_GIB)) ||
    fail "$free_gib GiB free here, the installation needs $NEEDED_DISK_GIB" "free some disk space, or check out onto a larger disk"
  memory_gib=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1048576))
  ((memory_gib >= WANTED_MEMORY_GIB)) ||
    echo "setup: warning: $memory_gib GiB of memory; the demo's two samplers and two ranks want $WANTED_MEMORY_GIB" >&2
}

stamp_of() { { "$1" --version; cat requirements/cpu.lock pyproject.toml scripts/setup.sh; } | sha256sum | cut -d' ' -f1; }

# torch's +cpu builds stand on PyTorch's own index, asked for torch alone and only when the configured ones lack them.
install_torch() {
  local pin
  pin=$(grep '^torch==' requirements/cpu.lock)
  "${pip[@]}" --no-deps "$pin" 2>"$log" && return
  "${pip[@]}" --no-deps --index-url https://download.pytorch.org/whl/cpu "$pin" 2>>"$log" && return
  tail -3 "$log" >&2
  fail "$pin was found neither on the configured package index nor on download.pytorch.org" \
    "see that this machine reaches one of them (pip config list), with a build for $(.venv/bin/python --version)"
}

python=$(find_python)
stamp=$(stamp_of "$python")
if [[ -x .venv/bin/python && $(cat .venv/quorum-setup-stamp 2>/dev/null) == "$stamp" ]]; then
  exit 0
fi
check_machine "$python"
echo "setup: installing the pinned stack into .venv with $("$python" --version) (a few minutes, 4 GB)"
if [[ ! -x .venv/bin/python || $(.venv/bin/python --version) != "$("$python" --version)" ]]; then
  "$python" -m venv --clear .venv
fi
log=.venv/setup.log
pip=(.venv/bin/python -m pip install -qq --disable-pip-version-check --progress-bar off)
sdists=$(grep -v '^#' requirements/sdists.txt | paste -sd'|')
install() { "${pip[@]}" "$@" || fail "pip could not install the lock (its last lines are above)" "see that the package index answers, then run make again"; }
progress() { echo "setup: $1 ($SECONDS s)"; }
progress "pip and build tools"
install $(grep -E '^(pip|setuptools|wheel)==' requirements/cpu.lock)
progress "torch"
install_torch
progress "wheels: vLLM, Ray, transformers and what they need, the longest part"
grep -vE "^(torch|$sdists)==" requirements/cpu.lock >.venv/wheels.txt
install --no-deps --only-binary :all: --requirement .venv/wheels.txt
progress "DeepSpeed and other source packages"
# DS_BUILD_OPS=0: DeepSpeed compiles nothing, now or later.
grep -E "^($sdists)==" requirements/cpu.lock >.venv/sdists.txt
DS_BUILD_OPS=0 install --no-deps --no-build-isolation --requirement .venv/sdists.txt
progress "Quorum itself"
install --no-deps --no-build-isolation --editable .
echo "$stamp" >.venv/quorum-setup-stamp
echo "setup: done; .venv/bin/quorum doctor says what this machine can run"
