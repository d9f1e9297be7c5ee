#!/usr/bin/env bash
# Join, verify and unpack the bundle beside this script; no network, no root. `bash install.sh [FOLDER]`
# Needs python3 = 3.12 with torch 2.11. The machine's own packages win over carried ones of the same name.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$HOME/.local/share/quorum-gpu}
python=${PYTHON:-python3}
"$python" - <<'PY' || exit 4
import importlib.metadata as metadata, sys
if sys.version_info[:2] != (3, 12):
    sys.exit(f"install: python3 is {sys.version.split()[0]}, the bundle is for 3.12 (PYTHON=... names another)")
try:
    torch = metadata.version("torch")
except metadata.PackageNotFoundError:
    sys.exit("install: torch is not installed; the bundle is for a machine that has torch 2.11 with CUDA 13")
if not torch.startswith("2.11."):
    sys.exit(f"install: torch is {torch}, the bundle is for 2.11 (vLLM's binaries fit one version only)")
PY
cd "$here"
echo "install: verifying $(ls quorum-gpu.part* | wc -l) parts"
grep ' quorum-gpu.part' quorum-gpu.sha256 | sha256sum --check --quiet ||
  { echo "install: a part is missing or damaged (above); carry it again" >&2; exit 4; }
whole=$(awk '$2 == "quorum-gpu.tar.xz" {print $1}' quorum-gpu.sha256)
[[ $(cat quorum-gpu.part* | sha256sum | cut -d' ' -f1) == "$whole" ]] ||
  { echo "install: the joined parts differ from what was packed; is a part of another bundle here?" >&2; exit 4; }
rm -rf "$target.new" && mkdir -p "$target.new"
cat quorum-gpu.part* | tar -xJ -C "$target.new"
rm -rf "$target" && mv "$target.new" "$target"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
if [[ -w $site ]]; then
  echo "$target" >"$site/quorum-gpu.pth"
  echo "install: done; $site/quorum-gpu.pth makes it importable"
else
  echo "install: done; now: export PYTHONPATH=$target"
  export PYTHONPATH=$target${PYTHONPATH:+:$PYTHONPATH}
fi
"$python" -m orchestration doctor || echo "install: the doctor found something missing (above)" >&2
