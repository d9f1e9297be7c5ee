"""A cache that forgets what was used least recently, bounded by the summed cost of what it holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class BoundedCache:
    """At most `max_cost` in all, in whatever unit the callers count; a dearer value is given but not kept."""

    def __init__(self, max_cost: int) -> None:
        self._max_cost = max_cost
        self._cost = 0
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    @property
    def cost(self) -> int:
        """Of what is held now."""
        return self._cost

    def get(self, key: Hashable, make: Callable[[], Any], cost: Callable[[Any], int]) -> Any:
        """The value of `key`, made when it is not held."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        value = make()
        price = cost(value)
        if price <= self._max_cost:
            self._held[key] = (value, price)
            self._cost += price
            while self._cost > self._max_cost:
                _, (_, freed) = self._held.popitem(last=False)
                self._cost -= freed
        return value
