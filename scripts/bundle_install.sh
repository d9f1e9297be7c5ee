#!/usr/bin/env bash
# Join, verify and unpack the bundle beside this script; no network, no root. `bash install.sh [FOLDER]`
# `bash install.sh --check FOLDER` verifies and unpacks into FOLDER/site on any machine, and changes nothing else.
# Needs python3 = 3.12, and torch of the bundle's version unless it is carried. Where torch is the machine's, its own
# packages win over carried ones of the same name; where torch is carried, the carried ones win.
# FOLDER is replaced whole; one with files that no earlier install put there is refused.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
check=
[[ ${1:-} != --check ]] || { check=1; shift; }
target=${1:-$HOME/.local/share/quorum-gpu}
[[ $target == /* ]] || target=$PWD/$target
target=${target%/}
marker=.quorum-gpu-bundle
python=${PYTHON:-python3}
refuse_foreign() {
  [[ -e $1 ]] || return 0
  [[ -d $1 && (-f $1/$marker || -z $(ls -A "$1")) ]] ||
    { echo "install: $1 exists and was not made by this script; move it away, or name another FOLDER" >&2; exit 4; }
}
[[ -n $check ]] || { refuse_foreign "$target"; refuse_foreign "$target.new"; }
read -r torch torch_is <"$here/quorum-gpu.target" || { echo "install: quorum-gpu.target is missing; carry it too" >&2; exit 4; }
[[ -n $check ]] || TORCH=$torch TORCH_IS=$torch_is "$python" - <<'PY' || exit 4
import importlib.metadata as metadata, os, sys
wanted = os.environ["TORCH"]
if sys.version_info[:2] != (3, 12):
    sys.exit(f"install: python3 is {sys.version.split()[0]}, the bundle is for 3.12 (PYTHON=... names another)")
if os.environ["TORCH_IS"] == "present":
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        sys.exit(f"install: torch is not installed; the bundle is for a machine that has torch {wanted} with CUDA 13")
    if not torch.startswith(wanted + "."):
        sys.exit(f"install: torch is {torch}, the bundle is for {wanted} (vLLM's binaries fit one version only)")
PY
cd "$here"
echo "install: verifying $(ls quorum-gpu.part* | wc -l) parts"
grep ' quorum-gpu.part' quorum-gpu.sha256 | sha256sum --check --quiet ||
  { echo "install: a part is missing or damaged (above); carry it again" >&2; exit 4; }
whole=$(awk '$2 == "quorum-gpu.tar.xz" {print $1}' quorum-gpu.sha256)
[[ $(cat quorum-gpu.part* | sha256sum | cut -d' ' -f1) == "$whole" ]] ||
  { echo "install: the joined parts differ from what was packed; is a part of another bundle here?" >&2; exit 4; }
if [[ -n $check ]]; then
  mkdir -p "$target/site"
  cat quorum-gpu.part* | tar -xJ -C "$target/site"
  echo "install: verified; unpacked into $target/site, nothing installed"
  exit 0
fi
rm -rf "$target.new" && mkdir -p "$target.new" && touch "$target.new/$marker"
cat quorum-gpu.part* | tar -xJ -C "$target.new"
rm -rf "$target" && mv "$target.new" "$target"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
if [[ $torch_is == present && -w $site ]]; then
  echo "$target" >"$site/quorum-gpu.pth"
  echo "install: done; $site/quorum-gpu.pth makes it importable"
else
  echo "install: done; now: export PYTHONPATH=$target"
  export PYTHONPATH=$target${PYTHONPATH:+:$PYTHONPATH}
fi
"$python" -m orchestration doctor || echo "install: the doctor found something missing (above)" >&2
