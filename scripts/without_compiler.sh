#!/usr/bin/env bash
# Run a command with no C or C++ compiler on PATH, as on a bare machine: `without_compiler.sh make test`.
set -euo pipefail
shim=$(mktemp -d)
trap 'rm -rf "$shim"' EXIT
IFS=: read -ra folders <<<"$PATH"
for folder in "${folders[@]}"; do
  [[ -d $folder ]] || continue
  for program in "$folder"/*; do
    name=${program##*/}
    [[ $name =~ ^(.*-)?(cc|gcc|g\+\+|c\+\+|c89|c99|cpp|clang|clang\+\+|icx|icpx|nvcc)(-[0-9.]+)?$ ]] && continue
    [[ -e $shim/$name || ! -x $program || -d $program ]] || ln -s "$program" "$shim/$name"
  done
done
unset CC CXX
PATH=$shim "$@"
