"""What this machine's processor can do, read from the kernel's own description."""

from __future__ import annotations

from pathlib import Path

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Of x86 and of ARM: units that multiply bfloat16."""
_DESCRIPTION = Path("/proc/cpuinfo")


def has_bfloat16_units(description: str | None = None) -> bool:
    """Whether matrix products in bfloat16 run on units made for them; otherwise they are emulated, slower than float32.

    Args:
        description: text of /proc/cpuinfo; None reads it. A machine without one counts as having them.
    """
    if description is None:
        if not _DESCRIPTION.is_file():
            return True
        description = _DESCRIPTION.read_text(encoding="utf-8", errors="replace")
    lines = [line.partition(":") for line in description.splitlines()]
    flags = {flag for name, _, value in lines if name.strip() in ("flags", "Features") for flag in value.split()}
    return not flags or bool(flags & BFLOAT16_FLAGS)


def fast_dtype() -> str:
    """The faster of the samplers' types on this processor."""
    return "bfloat16" if has_bfloat16_units() else "float32"
