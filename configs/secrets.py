"""Secrets do not belong in a configuration: it is written to the run directory, shown in logs and sent as arguments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from quorum.errors import ConfigError

_KNOWN = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-(?:[a-z0-9]+-)*(?=[A-Za-z]*\d)[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}"
    r"|wandb_v\d_\w{20,}|xox[abp]-[\w-]{10,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"
)
"""Tokens that say by their form what they are: Hugging Face, GitHub, OpenAI, AWS, Weights & Biases, Slack, JWT."""
_PASSWORD_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)
_SECRET_NAME = re.compile(r"(TOKEN(?!IZ)|API_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY)", re.IGNORECASE)
_NO_SECRET_NAME = ("_PATH", "_FILE", "_DIR", "_URL")
_RANDOM = re.compile(r"(?![/~.])(?=.*\d)(?=.*[A-Za-z]).{16,}", re.DOTALL)
"""Of an environment variable's value to count: words, paths, numbers and short values occur in configurations by
chance."""


def refuse_secrets(values: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
    """Refuse values that hold a secret: one of a known form, a URL's password, or a secret of the environment.

    Args:
        values: what would be written or sent, by a name for the message; nested mappings and lists are walked.
        environment: whose secrets must not occur, those of variables named like ..._TOKEN or ..._API_KEY; None is
            this process's.

    Raises:
        ConfigError: names the fields and never the secret.
    """
    known = secrets_of(os.environ if environment is None else environment)
    problems = [
        f"{name} holds {what}: secrets come from the environment of the cluster's nodes and nowhere else "
        "(see docs/cluster.md); take it out and revoke it if it was ever stored"
        for name, text in _leaves("", values)
        if (what := _secret_in(text, known))
    ]
    if problems:
        raise ConfigError(problems)


def secrets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Values of the environment's variables that are named and look like secrets, by the variable."""
    return {
        name: value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and not name.endswith(_NO_SECRET_NAME) and _RANDOM.fullmatch(value)
    }


def _secret_in(text: str, known: Mapping[str, str]) -> str | None:
    """What kind of secret a text holds."""
    if _KNOWN.search(text):
        return "what looks like an access token"
    if _PASSWORD_IN_URL.search(text):
        return "a URL with a password"
    variable = next((name for name, value in known.items() if value in text), None)
    return f"the value of ${variable}" if variable else None


def _leaves(name: str, value: Any) -> Iterable[tuple[str, str]]:
    """(dotted name, text) of every string in a tree."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _leaves(f"{name}.{index}", inner)
    elif isinstance(value, str):
        yield name, value
