"""URL scheme -> transport: ours, or one that an installed package offers as an entry point.

A third party's package names a callable without arguments in the group `orvalho.transports`,
under the URL scheme it serves. A transport's module is imported on its first use.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Final, cast

from orvalho.errors import InvalidInput, OrvalhoError, Unavailable
from orvalho.transports.link import Transport

_log = logging.getLogger(__name__)

ENTRY_POINTS: Final = "orvalho.transports"

# scheme -> module:attribute, called without arguments
_OURS: Final = {
    "ws": "orvalho.transports.websocket:WebSocketTransport",
    "wss": "orvalho.transports.websocket:WebSocketTransport",
    "h2": "orvalho.transports.http2:Http2Transport",
    "h2s": "orvalho.transports.http2:Http2Transport",
    "quic": "orvalho.transports.quic:QuicTransport",
    "nats": "orvalho.transports.nats:NatsTransport",
    "nats+tls": "orvalho.transports.nats:NatsTransport",
}
# scheme -> the library that it needs, and the extra that brings it
_EXTRAS: Final = {
    "h2": ("h2", "http2"),
    "h2s": ("h2", "http2"),
    "quic": ("iroh", "quic"),
    "nats": ("nats", "nats"),
    "nats+tls": ("nats", "nats"),
}


@dataclass(frozen=True, slots=True)
class Offer:
    """A transport that can be had. `install` says how, None when it is here."""

    scheme: str
    module: str
    install: str | None


class Catalog:
    """The transports of one node. `given` adds ready-made ones, or replaces ours."""

    def __init__(self, given: Mapping[str, Transport] | None = None) -> None:
        self._made: dict[str, Transport] = dict(given or {})
        self._given = frozenset(self._made)

    def extended(self, scheme: str, transport: Transport) -> Catalog:
        """These, and one more."""
        return Catalog({**self._made, scheme: transport})

    def find(self, address: str) -> Transport:
        """The transport that serves `address`.

        Raises:
            InvalidInput: no transport serves its scheme.
            Unavailable: the one that does is not installed, or cannot be loaded.
        """
        scheme = address.partition("://")[0]
        if scheme not in self._made:
            self._made[scheme] = self._make(scheme, address)
        return self._made[scheme]

    def offers(self) -> list[Offer]:
        """Every transport there is: ours, those given, those of installed packages."""
        modules = {scheme: path.partition(":")[0] for scheme, path in _OURS.items()}
        modules |= {scheme: point.module for scheme, point in _offered().items()}
        modules |= {scheme: type(self._made[scheme]).__module__ for scheme in self._given}
        return [Offer(scheme, module, _missing(scheme)) for scheme, module in modules.items()]

    def _make(self, scheme: str, address: str) -> Transport:
        if scheme in _OURS:
            if (install := _missing(scheme)) is not None:
                raise Unavailable(f'"{scheme}" is not installed', where=address, hint=install)
            module, _, name = _OURS[scheme].partition(":")
            return cast("Callable[[], Transport]", getattr(import_module(module), name))()
        offered = _offered()
        if scheme in offered:
            return _load(offered[scheme], address)
        known = ", ".join(sorted({*_OURS, *offered, *self._made}))
        raise InvalidInput(
            f'no transport serves "{scheme}"; there are {known}',
            where=address,
            hint="an address looks like ws://192.168.1.20:4455",
        )


def _offered() -> dict[str, EntryPoint]:
    """What others offer; nobody takes a scheme of ours over."""
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    return {scheme: point for scheme, point in points.items() if scheme not in _OURS}


def _missing(scheme: str) -> str | None:
    """How to install what a transport of ours needs; None when it is here."""
    library, extra = _EXTRAS.get(scheme, ("", ""))
    if not library or find_spec(library) is not None:
        return None
    return f"pip install 'orvalho[{extra}]'"


def _load(point: EntryPoint, address: str) -> Transport:
    """Raises:
    Unavailable: somebody else's code broke.
    """
    try:
        return cast("Callable[[], Transport]", point.load())()
    except OrvalhoError:
        raise
    except Exception as error:
        _log.exception("transport.failed", extra={"transport": point.name, "of": point.module})
        raise Unavailable(
            f'the transport "{point.name}" of {point.module} cannot be loaded: {error}',
            where=address,
        ) from error
