"""The local network: be heard there, hear who else is, and dial those we know."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

import anyio

from orvalho.contexts.identity import Signer
from orvalho.contexts.trust import TrustBook
from orvalho.daemon.hints import Hints
from orvalho.peers.beacon import Beacon, Ear, Heard, announced, seal
from orvalho.peers.multicast import Interface, Multicast
from orvalho.peers.node import Node

_log = logging.getLogger(__name__)

_EVERY_S: Final = 30.0
# Said again soon after a start or a change: one datagram is easily lost, and an IPv6 address
# cannot be used for its first second or two.
_AGAIN_S: Final = (0.2, 1.0, 2.0)
# Others who appear are answered, but not oftener than this.
_ANSWER_S: Final = 1.0
# RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR of rtnetlink(7).
_CHANGES: Final = 0x1 | 0x10 | 0x100


class Lan:
    """Beacons both ways, while `run` runs. `interfaces` looks at what this machine has now."""

    def __init__(
        self,
        *,
        signer: Signer,
        name: str,
        port: int,
        node: Node,
        trust: TrustBook,
        hints: Hints,
        interfaces: Callable[[], Collection[Interface]],
    ) -> None:
        self._signer = signer
        self._name = name
        self._node = node
        self._trust = trust
        self._hints = hints
        self._interfaces = interfaces
        self._counters: Counter[str] = Counter()
        self._ear = Ear(signer.key, self._counters)
        self._multicast = Multicast(port, self._hear)
        self._wake = asyncio.Event()
        self._is_changed = False
        self._again: list[float] = []

    def heard(self) -> list[Heard]:
        """The nodes on the local network, by name; ourselves not."""
        return self._ear.list(_now())

    def statistics(self) -> dict[str, int]:
        """Beacons sent, and refused by reason, since the start."""
        return dict(self._counters)

    async def run(self) -> None:
        """Call and listen until cancelled."""
        datagram = seal(
            self._signer, Beacon(name=self._name, listen=announced(self._node.listening))
        )
        is_heard = bool(announced(self._node.listening))
        async with _network_changes(self._look_again):
            try:
                self._look()
                while True:
                    if is_heard:
                        self._counters["beacons.sent"] += self._multicast.send(datagram)
                    await self._pause()
            finally:
                self._multicast.close()

    async def _pause(self) -> None:
        """Until the next beacon is due. Looks at the interfaces in between."""
        pause_s = self._again.pop(0) if self._again else _EVERY_S
        self._wake.clear()
        with anyio.move_on_after(pause_s):
            await self._wake.wait()
            # Several changes come together: wait for the last.
            await anyio.sleep(_ANSWER_S if not self._is_changed else _AGAIN_S[0])
        self._look()

    def _look(self) -> None:
        self._is_changed = False
        try:
            if self._multicast.use(self._interfaces()):
                self._again = list(_AGAIN_S)
            if self._node.readvertise():
                _log.info("addresses.changed", extra={"addresses": list(self._node.addresses)})
        except OSError:  # no descriptor left, an interface that goes while we look: next time
            _log.warning("network.unreadable", exc_info=True)

    def _look_again(self) -> None:
        self._is_changed = True
        self._again = list(_AGAIN_S)
        self._wake.set()

    def _hear(self, datagram: bytes, source: str) -> None:
        found = self._ear.hear(datagram, source, _now())
        if found is None:
            return
        heard, is_new = found
        if is_new:
            # So that it hears of us as soon as we of it.
            self._wake.set()
        if self._trust.by_key(heard.key) is None:
            return
        if self._hints.hear(heard.key, heard.addresses, _now()):
            self._node.nudge(heard.key)


@asynccontextmanager
async def _network_changes(on_change: Callable[[], None]) -> AsyncIterator[None]:
    """Hear from the kernel when an interface or an address comes or goes (rtnetlink(7)); where it
    does not say, the regular look has to do."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, AttributeError):
            kernel = stack.enter_context(
                socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            )
            kernel.setblocking(False)
            kernel.bind((0, _CHANGES))

            def read() -> None:
                with contextlib.suppress(OSError):
                    while kernel.recv(1 << 16):
                        pass
                on_change()

            loop.add_reader(kernel, read)
            stack.callback(loop.remove_reader, kernel)
        yield


def _now() -> float:
    return asyncio.get_running_loop().time()
