"""Pack Quorum and a pinned GPU stack for a machine without network: `make bundle ARGS="--set NAME"`.

`scripts/bundle_sets.py` names the sets: what the lock pins beyond what the target has, less what is left out for a
reason, unpacked into one folder, packed with xz and cut into parts of at most 55 MiB; `install.sh` joins, verifies and
unpacks them. `--list` says what would travel, `--verify` checks lock, wheels and parts.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file

from scripts.bundle_sets import DEFAULT_SET, SETS, carried_pins, normal, sdists  # noqa: E402
from scripts.bundle_verify import Finding, verify, wheel_pin  # noqa: E402

PART_BYTES = 55 << 20
PIP_SECONDS = 1800
PACK_SECONDS = 5400
PYTHON = "312"
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=SETS, default=DEFAULT_SET, help=f"which packages (default: {DEFAULT_SET})")
    parser.add_argument("--out", type=Path, help="folder for the parts (default: bundle/SET)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="say what would travel, and stop")
    what.add_argument("--verify", action="store_true", help="check lock, wheels and parts, as far as they are here")
    options = parser.parse_args()
    chosen, out = SETS[options.set], options.out or ROOT / "bundle" / options.set
    if options.list:
        print("\n".join(carried_pins(chosen)))
    elif options.verify:
        sys.exit(report(verify(chosen, out, PART_BYTES)))
    else:
        build(options.set, out)


def report(findings: Sequence[Finding]) -> int:
    """Print findings; 0, or 5 when a check failed. What could not be checked is said and fails nothing."""
    for finding in findings:
        print(f"{'not checked' if finding.ok is None else 'ok' if finding.ok else 'FAILED':11}  {finding.text}")
    return 5 if any(finding.ok is False for finding in findings) else 0


def build(name: str, out: Path) -> None:
    """Download, unpack, pack and cut a set into `out`."""
    chosen = SETS[name]
    pins = carried_pins(chosen)
    work = out / "work"
    wheels = work / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    drop_others(pins, wheels)
    download(pins, wheels)
    build_project(wheels)
    site = work / "site"
    unpack(wheels, site, chosen.left_out_files)
    parts = pack(site, out)
    shutil.rmtree(site)
    shutil.copy(ROOT / "scripts" / "bundle_install.sh", out / "install.sh")
    (out / "quorum-gpu.target").write_text(f"{chosen.torch} {'carried' if chosen.carries_torch else 'present'}\n")
    total = sum(part.stat().st_size for part in parts)
    print(f"bundle: {name}: {len(pins) + 1} packages, {len(parts)} parts, {mib(total)} in {out}")
    for part in parts:
        print(f"  {part.name}  {mib(part.stat().st_size)}")
    print(f"  carry {out.name}/quorum-gpu.* and install.sh, then: bash install.sh")


def drop_others(pins: Iterable[str], wheels: Path) -> None:
    """Delete the wheels of an earlier build that are of no pin now: everything in the folder is unpacked."""
    wanted = {f"{normal(name)}=={version}" for name, _, version in (pin.partition("==") for pin in pins)}
    for wheel in wheels.glob("*.whl"):
        if wheel_pin(wheel) not in wanted and not wheel.name.startswith("quorum_srt-"):
            print(f"bundle: {wheel.name} is of no pin, deleted", flush=True)
            wheel.unlink()


def download(pins: Iterable[str], wheels: Path) -> None:
    """Fetch a wheel for Python 3.12 on Linux per pin; build the pure sdists. What is there already is kept."""
    sources = sdists()
    have = {tuple(path.name.split("-")[:2]) for path in wheels.glob("*.whl")}
    wanted = [pin for pin in pins if file_key(pin) not in have]
    binary = [pin for pin in wanted if normal(pin.partition("==")[0]) not in sources]
    tags = [word for platform in PLATFORMS for word in ("--platform", platform)]
    if binary:
        print(f"bundle: downloading {len(binary)} wheels", flush=True)
        abis = ("--abi", f"cp{PYTHON}", "--abi", "abi3", "--abi", "none")
        target = ("--python-version", PYTHON, "--implementation", "cp", *abis, *tags)
        pip("download", "--no-deps", "--only-binary", ":all:", *target, "--dest", str(wheels), *binary)
    for pin in (pin for pin in wanted if pin not in binary):
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), pin)
    compiled = [
        path.name for path in wheels.glob("*.whl") if f"-cp{sys.version_info[0]}{sys.version_info[1]}-cp" in path.name
    ]
    if sys.version_info[:2] != (3, 12) and compiled:
        raise SystemExit(f"bundle: built for this Python instead of 3.12: {', '.join(compiled)}")


def file_key(pin: str) -> tuple[str, str]:
    """(name, version) as a wheel's file name starts."""
    name, _, version = pin.partition("==")
    return name.replace("-", "_").replace(".", "_"), version


def build_project(wheels: Path) -> None:
    for old in wheels.glob("quorum_srt-*.whl"):
        old.unlink()
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT))


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", *arguments]
    environment = {**os.environ, "DS_BUILD_OPS": "0"}
    if subprocess.run(command, timeout=PIP_SECONDS, env=environment).returncode:
        raise SystemExit(f"bundle: pip {arguments[0]} failed (above)")


def unpack(wheels: Path, site: Path, left_out: Sequence[str] = ()) -> None:
    """Unpack every wheel as an installer would, without scripts and the files that match `left_out`."""
    shutil.rmtree(site, ignore_errors=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                target = place(entry.filename)
                if target is None or entry.is_dir() or any(fnmatch.fnmatch(target, name) for name in left_out):
                    continue
                path = site / target
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                if entry.external_attr >> 16 & 0o111:
                    path.chmod(0o755)


def place(name: str) -> str | None:
    """Where a wheel's member goes below site-packages; None for scripts, headers and data outside it."""
    head, _, rest = name.partition("/")
    if not head.endswith(".data"):
        return name
    kind, _, inner = rest.partition("/")
    return inner if kind in ("purelib", "platlib") else None


def pack(site: Path, out: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """tar, xz and cut; writes the parts and their hashes, and returns the parts."""
    for old in out.glob("quorum-gpu.*"):
        old.unlink()
    begin = time.monotonic()
    print(f"bundle: packing {mib(folder_bytes(site))} (xz, minutes)", flush=True)
    archive = out / "work" / "quorum-gpu.tar.xz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    tar = ["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-C", str(site)]
    tar += ["-cf", "-", "."]
    with archive.open("wb") as sink, subprocess.Popen(tar, stdout=subprocess.PIPE) as producer:
        subprocess.run(["xz", "-6", "-T0"], stdin=producer.stdout, stdout=sink, timeout=PACK_SECONDS, check=True)
        if producer.wait(timeout=60):
            raise SystemExit("bundle: tar failed")
    parts = cut(archive, out, part_bytes)
    hashes = [f"{sha256(path)}  {path.name}" for path in parts]
    (out / "quorum-gpu.sha256").write_text("\n".join([*hashes, f"{sha256(archive)}  quorum-gpu.tar.xz"]) + "\n")
    archive.unlink()
    print(f"bundle: packed in {time.monotonic() - begin:.0f} s", flush=True)
    return parts


def cut(archive: Path, out: Path, part_bytes: int) -> list[Path]:
    parts: list[Path] = []
    with archive.open("rb") as source:
        while chunk := source.read(part_bytes):
            part = out / f"quorum-gpu.part{len(parts) + 1:02d}"
            part.write_bytes(chunk)
            parts.append(part)
    return parts


def sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


if __name__ == "__main__":
    main()
