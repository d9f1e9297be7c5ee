"""What every section of the configuration is made of: strict, frozen models and their usual types."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change after load."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class Plugin(Section):
    """A registered plug-in by name, with its own options."""

    name: str
    """Key in the plug-in's registry."""
    options: dict[str, Any] = {}
    """Validated against the entry's options model when the run is planned."""

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, value: Any) -> Any:
        """`rule: majority` is short for `rule: {name: majority}`."""
        return {"name": value} if isinstance(value, str) else value
