"""URL scheme -> transport: ours, or one that an installed package offers as an entry point.

A third party's package names a callable without arguments in the group `orvalho.transports`,
under the URL scheme it serves. A transport's module is imported on its first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Final, cast

from orvalho.errors import InvalidInput
from orvalho.transports.link import Transport

ENTRY_POINTS: Final = "orvalho.transports"

# scheme -> module:attribute, called without arguments
_OURS: Final = {
    "ws": "orvalho.transports.websocket:WebSocketTransport",
    "wss": "orvalho.transports.websocket:WebSocketTransport",
    "nats": "orvalho.transports.nats:NatsTransport",
    "nats+tls": "orvalho.transports.nats:NatsTransport",
}


class Catalog:
    """The transports of one node. `given` adds ready-made ones, or replaces ours."""

    def __init__(self, given: Mapping[str, Transport] | None = None) -> None:
        self._made: dict[str, Transport] = dict(given or {})

    def find(self, address: str) -> Transport:
        """The transport that serves `address`.

        Raises:
            InvalidInput: no transport serves its scheme.
        """
        scheme = address.partition("://")[0]
        if scheme not in self._made:
            self._made[scheme] = self._make(scheme, address)
        return self._made[scheme]

    def _make(self, scheme: str, address: str) -> Transport:
        if scheme in _OURS:
            module, _, name = _OURS[scheme].partition(":")
            return cast("Callable[[], Transport]", getattr(import_module(module), name))()
        offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
        if scheme in offered:
            return cast("Callable[[], Transport]", offered[scheme].load())()
        known = ", ".join(sorted({*_OURS, *offered, *self._made}))
        raise InvalidInput(
            f'no transport serves "{scheme}"; there are {known}',
            where=address,
            hint="an address looks like ws://192.168.1.20:4455",
        )
