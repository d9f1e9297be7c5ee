"""Jobs of a stand-in for Ray."""

from __future__ import annotations

import pytest

from orchestration.jobs import client, follow
from orchestration.jobs.client import Jobs
from tests.unit.orchestration.jobs.fake_ray import FakeRay


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(client, "_client", lambda address: fake)
    monkeypatch.setattr(client, "use_token", lambda: None)
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.0)
    return fake


@pytest.fixture
def jobs(ray: FakeRay) -> Jobs:
    return Jobs("http://h:8265")
