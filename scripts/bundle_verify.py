"""Checks of a bundle: the lock against the index, each wheel against what it asks for, the parts against their hashes.

Only the first asks the package indexes, for metadata and hashes alone; what could not be checked is said.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement

from scripts.bundle_sets import REQUIREMENTS, BundleSet, carried_pins, lines, locked_pins, names, normal, sdists

RESOLVE_SECONDS, INSTALL_SECONDS, PIP_CONFIG_SECONDS = 600, 900, 60
TARGET = {
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "implementation_name": "cpython",
    "implementation_version": "3.12.0",
    "platform_python_implementation": "CPython",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "platform_release": "",
    "platform_version": "",
}
"""The target machine, as requirements' markers know it."""


@dataclass(frozen=True, slots=True)
class Dist:
    """A carried distribution, as its METADATA describes it."""

    name: str
    version: str
    requires: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome."""

    ok: bool | None
    """None: it could not be made here."""
    text: str


def verify(chosen: BundleSet, out: Path, part_bytes: int) -> list[Finding]:
    """All checks of a set whose parts and wheels are, or are not yet, in `out`."""
    findings = [check_lock(chosen)]
    wheels = sorted((out / "work" / "wheels").glob("*.whl"))
    if wheels:
        findings += [*check_wheels(chosen, wheels), *check_closure(chosen, [read_metadata(path) for path in wheels])]
    else:
        findings.append(Finding(None, f"closure of the wheels: none in {out / 'work' / 'wheels'}; build the set first"))
    findings += check_parts(out, part_bytes)
    return findings


def check_lock(chosen: BundleSet) -> Finding:
    """Whether the index has a build for the target of every pin, with hashes, and the pins satisfy each other."""
    pins = locked_pins(chosen)
    done = resolve(chosen, pins)
    if done.returncode:
        return Finding(False, f"lock {chosen.lock}: does not resolve for Python 3.12: {done.stderr.strip()[-1500:]}")
    return compare_lock(chosen.lock, pins, done.stdout)


def compare_lock(lock: str, pins: Iterable[str], resolved: str) -> Finding:
    """Compare a lock with what its pins resolve to.

    Args:
        lock: its name, for the text.
        pins: name==version.
        resolved: output of `uv pip compile --generate-hashes` over the pins.
    """
    found = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", resolved, re.MULTILINE))
    wanted = dict(pin.split("==", 1) for pin in pins)
    added, lost = sorted(found.items() - wanted.items()), sorted(wanted.items() - found.items())
    if added or lost:
        return Finding(False, f"lock {lock}: resolves to other pins: more {added}, fewer {lost}; run make lock")
    bare = [
        block.split("==")[0] for block in re.split(r"\n(?=\S)", resolved) if "==" in block and "sha256:" not in block
    ]
    if bare:
        return Finding(False, f"lock {lock}: the index gives no hash of {', '.join(bare)}")
    return Finding(True, f"lock {lock}: {len(wanted)} pins have builds and hashes, and satisfy each other (metadata)")


def resolve(chosen: BundleSet, pins: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Resolve pins for the target with uv, which reads metadata and hashes and downloads no wheel it can avoid."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "pins.in"
        source.write_text("\n".join(pins) + "\n")
        command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", str(source), "--quiet", "--no-annotate"]
        command += ["--no-header", "--generate-hashes", "--python-version", "3.12", "--index-strategy"]
        command += ["unsafe-best-match", "--python-platform", "x86_64-manylinux_2_35", "--only-binary", ":all:"]
        command += ["--no-emit-index-url", "--no-emit-find-links"]
        for name in sorted(sdists() | {"pycosat"}):
            command += ["--no-binary", name]
        if chosen.overrides is not None:
            command += ["--override", str(REQUIREMENTS / chosen.overrides)]
        environment = {**os.environ, **pip_indexes()}
        return subprocess.run(command, capture_output=True, text=True, timeout=RESOLVE_SECONDS, env=environment)


def pip_indexes() -> dict[str, str]:
    """The indexes that pip is configured with, as uv's environment variables."""
    found = {}
    for setting, variable, glue in (
        ("index-url", "UV_INDEX_URL", " "),
        ("extra-index-url", "UV_EXTRA_INDEX_URL", " "),
        ("find-links", "UV_FIND_LINKS", ","),
    ):
        command = [sys.executable, "-m", "pip", "config", "get", f"global.{setting}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_CONFIG_SECONDS)
        if done.returncode == 0 and done.stdout.split():
            found[variable] = glue.join(done.stdout.split())
    return {name: value for name, value in found.items() if name not in os.environ}


def check_wheels(chosen: BundleSet, wheels: Iterable[Path]) -> Iterator[Finding]:
    """Whether there is a whole wheel of every carried pin and of nothing else."""
    wheels = list(wheels)
    have = {wheel_pin(path) for path in wheels}
    wanted = {
        f"{normal(name)}=={version}" for name, _, version in (pin.partition("==") for pin in carried_pins(chosen))
    }
    lost, more = sorted(wanted - have), sorted(pin for pin in have - wanted if not pin.startswith("quorum-srt=="))
    broken = [path.name for path in wheels if not zipfile.is_zipfile(path)]
    if lost or more or broken:
        yield Finding(False, f"wheels: missing {lost}, of no pin {more}, damaged {broken}; build the set again")
    else:
        yield Finding(True, f"wheels: one of each of {len(wanted)} carried pins")


def wheel_pin(wheel: Path) -> str:
    """name==version of a wheel's file name."""
    name, version = wheel.name.split("-")[:2]
    return f"{normal(name)}=={version}"


def read_metadata(wheel: Path) -> Dist:
    """Name, version and requirements that a wheel's METADATA states."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        return parse_metadata(archive.read(name).decode("utf-8", "replace"))


def parse_metadata(text: str) -> Dist:
    """The same of METADATA's text."""
    fields = HeaderParser().parsestr(text)
    return Dist(normal(fields["Name"]), fields["Version"], tuple(fields.get_all("Requires-Dist") or ()))


def check_closure(chosen: BundleSet, dists: Iterable[Dist]) -> Iterator[Finding]:
    """Whether what every carried distribution asks for is carried, present by list, or left out on purpose."""
    dists = list(dists)
    versions = {normal(pin.partition("==")[0]): pin.partition("==")[2] for pin in locked_pins(chosen)}
    versions |= {dist.name: dist.version for dist in dists}
    overridden = set()
    if chosen.overrides is not None:
        overridden = {normal(Requirement(line).name) for line in lines(REQUIREMENTS / chosen.overrides)}
    problems, left_out = closure_problems(
        dists,
        versions,
        present=names(REQUIREMENTS / chosen.present),
        left_out=names(REQUIREMENTS / chosen.left_out) | overridden,
    )
    if problems:
        yield Finding(False, "closure: " + "; ".join(problems))
        return
    told = f"; asked for and left out on purpose: {', '.join(sorted(left_out))}" if left_out else ""
    yield Finding(True, f"closure: what {len(dists)} wheels ask for is carried or present by list{told}")


def closure_problems(
    dists: Iterable[Dist], versions: Mapping[str, str], *, present: set[str], left_out: set[str]
) -> tuple[list[str], set[str]]:
    """Requirements that nothing meets, and the names asked for that are left out.

    Args:
        dists: what is carried.
        versions: of what is carried or present, by name. A present package without one is taken as it is.
        present: names that the target has.
        left_out: names that are missing on purpose.
    """
    carried = {dist.name: dist for dist in dists}
    problems, missed = [], set()
    todo = [(dist, "") for dist in carried.values()]
    seen = set(carried)
    while todo:
        dist, extra = todo.pop()
        for text in dist.requires:
            requirement = Requirement(text)
            name = normal(requirement.name)
            if requirement.marker is not None and not requirement.marker.evaluate({**TARGET, "extra": extra}):
                continue
            if name in left_out:
                missed.add(name)
            elif name not in carried and name not in present:
                problems.append(f"{dist.name} wants {text}, which is neither carried nor present")
            elif name in versions and not requirement.specifier.contains(versions[name], prereleases=True):
                problems.append(f"{dist.name} wants {text}, and {versions[name]} is there")
            for wanted in requirement.extras if name in carried else ():
                if f"{name}[{wanted}]" not in seen:
                    seen.add(f"{name}[{wanted}]")
                    todo.append((carried[name], wanted))
    return sorted(set(problems)), missed


def check_parts(out: Path, part_bytes: int) -> list[Finding]:
    """Whether the parts are small enough and the install script unpacks them, into a folder that is thrown away."""
    parts = sorted(out.glob("quorum-gpu.part*"))
    if not parts:
        return [Finding(None, f"parts: none in {out}; build the set first")]
    large = [part.name for part in parts if part.stat().st_size > part_bytes]
    if large:
        return [Finding(False, f"parts: {', '.join(large)} above {part_bytes >> 20} MiB")]
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        command = ["bash", str(out / "install.sh"), "--check", scratch]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if done.returncode:
            return [Finding(False, f"parts: install.sh --check: {(done.stderr or done.stdout).strip()}")]
        packages = len(list(Path(scratch).glob("site/*.dist-info")))
    return [
        Finding(True, f"parts: {len(parts)} of at most {part_bytes >> 20} MiB; hashes hold; {packages} packages unpack")
    ]
