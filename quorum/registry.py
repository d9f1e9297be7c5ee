"""Plug-in points: a plain dict of name -> Entry, each entry carrying its own options model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Options(BaseModel):
    """Base of every plug-in's options: strict and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One plug-in: what to call, and the model its options are validated against.

    `target` is called as the registry's docstring says, with the validated options as its last argument.
    """

    target: T
    options: type[Options] = Options


Registry = dict[str, Entry[Any]]
