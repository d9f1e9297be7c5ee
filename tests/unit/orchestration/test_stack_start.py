"""In which order the parts of a stack start."""

from concurrent.futures import Future

import pytest

from orchestration import stack
from quorum.errors import ResourceError


def test_a_learner_on_a_shared_gpu_starts_once_its_sampler_has_measured_it(monkeypatch):
    order = []
    monkeypatch.setattr(stack, "_start_learner", lambda *given: order.append(("learner", given)) or "learner")
    samplers: Future = Future()
    samplers.result, result = lambda timeout: order.append("samplers") or result(timeout), samplers.result
    samplers.set_result("pool")
    assert stack._start_after(samplers, 1.0, "config") == "learner"
    assert order == ["samplers", ("learner", ("config",))]
    assert stack._start_after(None, 1.0, "config") == "learner"


def test_a_sampler_that_does_not_start_is_the_reason_also_of_the_learner(monkeypatch):
    monkeypatch.setattr(stack, "_start_learner", lambda *given: pytest.fail("it was started"))
    samplers: Future = Future()
    samplers.set_exception(ResourceError("no memory"))
    with pytest.raises(ResourceError, match="no memory"):
        stack._start_after(samplers, 1.0)
