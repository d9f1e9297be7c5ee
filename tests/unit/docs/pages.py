"""What the tests of documentation pages share."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from configs.schema import RunConfig

ROOT = Path(__file__).parents[3]


def read_page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def is_setting(name: str) -> bool:
    """Whether a dotted name is a section or field of the configuration."""
    model: type[BaseModel] | None = RunConfig
    for part in name.split("."):
        if model is None or part not in model.model_fields:
            return False
        annotation = model.model_fields[part].annotation
        models = [one for one in (*get_args(annotation), annotation) if isinstance(one, type)]
        model = next((one for one in models if issubclass(one, BaseModel)), None)
    return True
