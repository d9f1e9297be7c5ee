"""What the fake engine answers, how long it takes and when it fails."""

from __future__ import annotations

from pydantic import Field

from quorum.registry import Options


class FakeOptions(Options):
    """How the fake answers, how long it takes and when it fails."""

    answers: tuple[str, ...] = ("\\boxed{1}", "\\boxed{2}", "\\boxed{3}", "no answer")
    """Texts; each completion takes one, by its own seed."""
    weights: tuple[float, ...] | None = None
    """Odds of the answers; None makes them equal."""
    max_thinking_tokens: int = Field(default=0, ge=0)
    """Most tokens before the answer. A completion's number is drawn by its seed: half of them draw less than an
    eighth of this, a few nearly all of it."""
    payload_bytes: int = Field(default=0, ge=0)
    """Size that a group is padded to, by spaces behind its prompt's text."""
    start_seconds: float = Field(default=0.0, ge=0)
    """Time the start takes."""
    seconds_per_group: float = Field(default=0.0, ge=0)
    """Time a completion takes, whatever its length."""
    seconds_per_token: float = Field(default=0.0, ge=0)
    """Time a completion takes for each of its tokens, besides."""
    max_running: int | None = Field(default=None, ge=1)
    """Completions that make tokens at a time; the others wait. None: all of them."""
    sync_seconds: float = Field(default=0.0, ge=0)
    """Time a weight update takes; no token comes meanwhile."""
    fail_start: str | None = None
    """Error line of a start that fails."""
    fail_updates: tuple[int, ...] = ()
    """Policy versions whose update fails half-way."""
    fail_groups: tuple[int, ...] = ()
    """Group ids that are refused with a RolloutError."""
    die_groups: tuple[int, ...] = ()
    """Group ids at which the process kills itself."""
    crash_groups: tuple[int, ...] = ()
    """Group ids at which the engine dies inside its process, which lives on."""
    hang_groups: tuple[int, ...] = ()
    """Group ids that never finish and make no token."""
    freeze_groups: tuple[int, ...] = ()
    """Group ids at which the whole engine stands still and answers no more."""
    faulty_attempts: int | None = Field(default=None, ge=1)
    """Attempts of a group, from the first, in which the above befalls it; None: all."""
