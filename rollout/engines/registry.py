"""The engines a sampler can host. No engine library is imported before an engine starts."""

from __future__ import annotations

from quorum.registry import Entry, Registry
from rollout.engines.fake import FakeEngine
from rollout.engines.fake_options import FakeOptions
from rollout.engines.vllm import VllmEngine
from rollout.engines.vllm_options import VllmOptions

ENGINES: Registry = {
    "vllm": Entry(target=VllmEngine, options=VllmOptions),
    "fake": Entry(target=FakeEngine, options=FakeOptions),
}
"""Name -> engine. Target: `target(settings: SamplerSettings, options) -> rollout.engine.Engine`."""
