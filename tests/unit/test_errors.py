"""The error tree: pickles, exits with its own code, and its docstring draws it whole."""

import pickle

import pytest

from quorum import errors
from quorum.errors import ConfigError, Interrupted, QuorumError, StaleSamplerError


def tree(root: type[QuorumError] = QuorumError) -> list[type[QuorumError]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


def instance(kind: type[QuorumError]) -> QuorumError:
    arguments = {ConfigError: (["a", "b"],), Interrupted: (15,), StaleSamplerError: ("s0", 3, 4)}
    return kind(*arguments.get(kind, ("what happened",)))


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[QuorumError]) -> None:
    error = instance(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert copy.exit_code == error.exit_code


@pytest.mark.parametrize("kind", tree()[1:], ids=lambda kind: kind.__name__)
def test_the_docstring_draws_every_error(kind: type[QuorumError]) -> None:
    assert f" {kind.__name__} " in errors.__doc__ or f" {kind.__name__}\n" in errors.__doc__


@pytest.mark.parametrize(
    ("kind", "code"),
    [("ConfigError", 2), ("DataError", 3), ("ResourceError", 4), ("StageError", 5)],
)
def test_exit_codes_are_those_of_the_interface(kind: str, code: int) -> None:
    root = getattr(errors, kind)
    assert {error.exit_code for error in tree(root)} == {code}


def test_a_signal_exits_as_a_shell_expects() -> None:
    assert (Interrupted(2).exit_code, Interrupted(15).exit_code) == (130, 143)
    assert "SIGTERM" in str(Interrupted(15))


def test_one_configuration_problem_is_one_line_and_many_are_a_list() -> None:
    assert str(ConfigError("wrong")) == "wrong"
    assert str(ConfigError(["a", "b"])) == "2 problems:\n  - a\n  - b"
