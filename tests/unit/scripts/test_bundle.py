"""The bundle: what travels, how it is cut, and that a damaged part is refused before anything is unpacked."""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from scripts import bundle

ROOT = Path(__file__).parents[3]

FAKE_PYTHON = """#!/bin/sh
# Stands in for the target's Python 3.12 with torch 2.11: passes the check, names a site folder, runs no doctor.
case "$1" in
  -) exit 0 ;;
  -c) echo "$SITE" ;;
  *) exit 0 ;;
esac
"""


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A bundle of a small folder of bytes that do not compress, in parts of 10,000 bytes."""
    site = tmp_path / "site"
    (site / "package").mkdir(parents=True)
    (site / "package" / "data.bin").write_bytes(os.urandom(35_000))
    (site / "package" / "__init__.py").write_text("VALUE = 1\n")
    out = tmp_path / "bundle"
    out.mkdir()
    parts = bundle.pack(site, out, part_bytes=10_000)
    assert len(parts) == 4 and all(part.stat().st_size <= 10_000 for part in parts)
    (out / "install.sh").write_text((ROOT / "scripts" / "bundle_install.sh").read_text())
    return out


def install(packed: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    python, site = tmp_path / "python", tmp_path / "site-packages"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    site.mkdir()
    environment = {**os.environ, "PYTHON": str(python), "SITE": str(site)}
    command = ["bash", str(packed / "install.sh"), str(tmp_path / "target")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_the_parts_are_joined_verified_and_made_importable(packed: Path, tmp_path: Path) -> None:
    done = install(packed, tmp_path)
    assert done.returncode == 0, done.stderr
    target = tmp_path / "target"
    assert (target / "package" / "data.bin").read_bytes() == (tmp_path / "site" / "package" / "data.bin").read_bytes()
    assert (tmp_path / "site-packages" / "quorum-gpu.pth").read_text().strip() == str(target)


@pytest.mark.parametrize("damage", ["flip", "lose", "foreign"])
def test_a_damaged_lost_or_foreign_part_is_refused(packed: Path, tmp_path: Path, damage: str) -> None:
    part = packed / "quorum-gpu.part02"
    if damage == "flip":
        content = bytearray(part.read_bytes())
        content[100] ^= 1
        part.write_bytes(content)
    elif damage == "lose":
        part.unlink()
    else:
        (packed / "quorum-gpu.part99").write_bytes(b"of another bundle")
    done = install(packed, tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith("sha256sum:") or "install:" in done.stderr
    assert not (tmp_path / "target").exists()


def test_what_the_target_has_and_what_is_left_out_does_not_travel() -> None:
    carried = {bundle.normal(pin.partition("==")[0]) for pin in bundle.carried_pins()}
    assert {"vllm", "ray", "deepspeed", "datasets", "pydantic", "math-verify", "reasoning-gym"} <= carried
    assert not carried & {"torch", "torchvision", "triton", "numpy", "pyarrow", "transformers", "tilelang", "pycosat"}
    assert not [name for name in carried if name.startswith("nvidia-c") and "cutlass" not in name]


def test_wheels_are_unpacked_as_an_installer_would(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "x-1-py3-none-any.whl", "w") as archive:
        archive.writestr("x/__init__.py", "")
        archive.writestr("x-1.data/purelib/y.py", "")
        archive.writestr("x-1.data/scripts/tool", "")
        archive.writestr("vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so", "large")
    bundle.unpack(wheels, site)
    assert sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()) == [
        "x/__init__.py",
        "y.py",
    ]
