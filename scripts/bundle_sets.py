"""The two sets of packages that `make bundle` can pack, and what of each one travels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"


@dataclass(frozen=True, slots=True)
class BundleSet:
    """A pinned stack for a machine without network. File names are below requirements/."""

    about: str
    lock: str
    present: str
    """Names that the machine has already."""
    left_out: str
    """Names that nobody needs there, each with its reason."""
    overrides: str | None
    """What the lock was resolved under besides its .in file; None: nothing."""
    torch: str
    """Version of torch that vLLM's binaries fit, as major.minor."""
    carries_torch: bool
    """Whether torch travels. The folder must then come before the machine's own packages, else after them."""
    left_out_files: tuple[str, ...] = ()
    """Files of carried wheels that Hopper does not need, as shell patterns below the folder."""


SETS = {
    "torch2.11": BundleSet(
        about="vLLM 0.26 for a machine that has torch 2.11 with CUDA 13 on Python 3.12",
        lock="bundle.lock",
        present="bundle-present.txt",
        left_out="bundle-left-out.txt",
        overrides="bundle-overrides.txt",
        torch="2.11",
        carries_torch=False,
        left_out_files=(
            "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so",  # Hopper uses _vllm_fa3_C; the import of this one is in a try
            "vllm/vllm-rs",
            "*/vllm-rs",
            "ray/dashboard/client/*",
            "ray/jars/*",
            "*/__pycache__/*",
        ),
    ),
    "torch2.13": BundleSet(
        about="vLLM 0.32 with its own torch 2.13 and CUDA 13 libraries, for Python 3.12 and a driver",
        lock="gpu.lock",
        present="bundle-next-present.txt",
        left_out="bundle-next-left-out.txt",
        overrides=None,
        torch="2.13",
        carries_torch=True,
        left_out_files=("ray/dashboard/client/*", "ray/jars/*", "*/__pycache__/*"),
    ),
}
"""Name -> set. The first is what `make bundle` packs unless told otherwise."""
DEFAULT_SET = next(iter(SETS))


def locked_pins(chosen: BundleSet) -> list[str]:
    """name==version of all that the lock names, in its order."""
    return [line for line in lines(REQUIREMENTS / chosen.lock) if "==" in line]


def carried_pins(chosen: BundleSet) -> list[str]:
    """The lock's pins without what the target has and what is left out, in the lock's order."""
    absent = names(REQUIREMENTS / chosen.present) | names(REQUIREMENTS / chosen.left_out)
    return [pin for pin in locked_pins(chosen) if normal(pin.partition("==")[0]) not in absent]


def sdists() -> set[str]:
    """Names of the pins that are published without wheels."""
    return names(REQUIREMENTS / "sdists.txt")


def lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def names(path: Path) -> set[str]:
    return {normal(line) for line in lines(path)}


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return name.strip().lower().replace("_", "-").replace(".", "-")
