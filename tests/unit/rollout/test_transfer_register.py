import subprocess
import sys
from importlib.metadata import entry_points

import pytest


def test_importing_the_package_imports_neither_vllm_nor_torch() -> None:
    code = (
        "import sys, rollout.transfer, rollout.transfer.wire, rollout.pool, rollout.engines.registry;"
        "print([m for m in ('vllm', 'torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_the_entry_point_leads_to_the_registration() -> None:
    points = [point for point in entry_points(group="vllm.general_plugins") if point.name == "quorum"]
    if not points:
        pytest.skip("the project is not installed")
    assert points[0].value == "rollout.transfer:register"


@pytest.mark.stack
@pytest.mark.timeout(200)
def test_registering_twice_changes_nothing_and_every_receiver_can_be_loaded() -> None:
    pytest.importorskip("vllm")
    from vllm.distributed.weight_transfer.base import WeightTransferEngine
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from rollout.transfer import ENGINE_NAMES, register

    register()
    before = dict(WeightTransferEngineFactory._registry)
    register()
    assert WeightTransferEngineFactory._registry == before
    for name in ENGINE_NAMES.values():
        receiver = WeightTransferEngineFactory._registry[name]()
        assert issubclass(receiver, WeightTransferEngine)
        assert not getattr(receiver, "__abstractmethods__", None)
