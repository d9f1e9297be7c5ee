"""The bundle: what travels, how it is cut, and that a damaged part is refused before anything is unpacked."""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from scripts import bundle, bundle_verify
from scripts.bundle_sets import SETS, carried_pins, normal
from scripts.bundle_verify import Dist, closure_problems, compare_lock, parse_metadata

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
    (out / "quorum-gpu.target").write_text("2.11 present\n")
    return out


def install(packed: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    python, site = tmp_path / "python", tmp_path / "site-packages"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    site.mkdir(exist_ok=True)
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


@pytest.mark.parametrize("name", ["target", "target.new"])
def test_a_folder_that_the_script_did_not_make_is_refused_and_stays(packed: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("mine")
    done = install(packed, tmp_path)
    assert done.returncode == 4 and f"{tmp_path / name} exists and was not made by this script" in done.stderr
    assert [path.name for path in (tmp_path / name).iterdir()] == ["thesis.tex"]


def test_an_empty_folder_and_an_earlier_install_are_replaced(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    assert install(packed, tmp_path).returncode == 0
    (target / "package" / "old.py").touch()
    assert install(packed, tmp_path).returncode == 0
    assert (target / "package" / "data.bin").exists() and not (target / "package" / "old.py").exists()


def test_wheels_of_an_earlier_lock_are_not_packed(tmp_path: Path) -> None:
    for name in (
        "a_b-1-py3-none-any.whl",
        "a_b-2-py3-none-any.whl",
        "C.d-3-cp312-cp312-x.whl",
        "gone-1-py3-none-any.whl",
    ):
        (tmp_path / name).touch()
    bundle.drop_others(["a-b==2", "c-d==3"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["C.d-3-cp312-cp312-x.whl", "a_b-2-py3-none-any.whl"]


def test_what_the_target_has_and_what_is_left_out_does_not_travel() -> None:
    carried = {normal(pin.partition("==")[0]) for pin in carried_pins(SETS["torch2.11"])}
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
    bundle.unpack(wheels, site, SETS["torch2.11"].left_out_files)
    assert sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()) == [
        "x/__init__.py",
        "y.py",
    ]


def test_the_set_of_the_current_vllm_carries_its_torch_and_cuda_libraries() -> None:
    pins = carried_pins(SETS["torch2.13"])
    carried = {normal(pin.partition("==")[0]) for pin in pins}
    assert {"torch", "triton", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "vllm", "ray", "deepspeed"} <= carried
    assert "vllm==0.32.0" in pins and "torch==2.13.0" in pins and "pycosat" not in carried


def test_a_bundle_that_carries_torch_is_not_put_behind_the_machines_packages(packed: Path, tmp_path: Path) -> None:
    (packed / "quorum-gpu.target").write_text("2.13 carried\n")
    done = install(packed, tmp_path)
    assert done.returncode == 0 and f"export PYTHONPATH={tmp_path / 'target'}" in done.stdout
    assert not (tmp_path / "site-packages" / "quorum-gpu.pth").exists()


def test_parts_are_verified_and_unpacked_without_installing_anything(packed: Path) -> None:
    (found,) = bundle_verify.check_parts(packed, 10_000)
    assert found.ok and "4 of at most" in found.text
    (found,) = bundle_verify.check_parts(packed, 9_000)
    assert found.ok is False and "quorum-gpu.part01" in found.text
    (packed / "quorum-gpu.part03").write_bytes(b"damaged")
    (found,) = bundle_verify.check_parts(packed, 10_000)
    assert found.ok is False and "damaged" in found.text


def test_every_requirement_of_a_carried_wheel_must_be_met_on_the_target() -> None:
    asking = Dist(
        "a",
        "1",
        (
            "b[fast]>=2",
            "c<3",
            "gone",
            "skipped",
            "wrong-os; sys_platform == 'win32'",
            "old; python_version < '3.12'",
            "not-asked; extra == 'dev'",
        ),
    )
    b = Dist("b", "1.5", ("d; extra == 'fast'",))
    problems, missed = closure_problems([asking, b], {"b": "1.5", "c": "2"}, present={"c"}, left_out={"skipped"})
    assert problems == [
        "a wants b[fast]>=2, and 1.5 is there",
        "a wants gone, which is neither carried nor present",
        "b wants d; extra == 'fast', which is neither carried nor present",
    ]
    assert missed == {"skipped"}


def test_metadata_is_read_as_the_wheel_states_it() -> None:
    dist = parse_metadata("Metadata-Version: 2.1\nName: A_b.c\nVersion: 1.2\nRequires-Dist: x>1\nRequires-Dist: y\n\nz")
    assert dist == Dist("a-b-c", "1.2", ("x>1", "y"))


def test_a_lock_whose_pins_resolve_to_others_or_have_no_hash_is_reported() -> None:
    resolved = "x==1 \\\n    --hash=sha256:aa\ny==2 \\\n    --hash=sha256:bb\n"
    assert compare_lock("l", ["x==1", "y==2"], resolved).ok
    assert "('y', '2')" in compare_lock("l", ["x==1"], resolved).text
    assert "('z', '3')" in compare_lock("l", ["x==1", "y==2", "z==3"], resolved).text
    found = compare_lock("l", ["x==1", "y==2"], resolved.replace("sha256:bb", ""))
    assert found.ok is False and "no hash of y" in found.text


def test_what_cannot_be_checked_here_is_said_and_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bundle.report(bundle_verify.check_parts(tmp_path, 1)) == 0
    assert "not checked" in capsys.readouterr().out
    assert bundle.report([bundle_verify.Finding(True, "x"), bundle_verify.Finding(False, "y")]) == 5
