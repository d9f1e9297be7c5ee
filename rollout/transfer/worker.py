"""Extension of vLLM's worker class: lets the sampler ask each worker what it received, and end a broken update.

vLLM resolves it by name in every worker before the model is loaded, so importing it also registers the receivers
where the project is on the path without being installed.
"""

from __future__ import annotations

import os
from typing import Any

from rollout.transfer import register

register()


class ReceiptExtension:
    """Methods that `AsyncLLM.collective_rpc` can call on a worker."""

    weight_transfer_engine: Any
    _weight_update_active: bool

    def quorum_transfer_receipt(self) -> dict[str, Any]:
        """Version, checksums and seconds of the last update, and this worker's process id."""
        return {"pid": os.getpid(), **self.weight_transfer_engine.receipt()}

    def quorum_forget_update(self) -> None:
        """End an update that was started and never finished; vLLM refuses to start another one beside it."""
        self._weight_update_active = False
        self.weight_transfer_engine.reset_weight_update_target()
