"""The events of scripts that come here, and of peers, for whoever follows them; without a reader
they cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from orvalho.contexts.identity import Key, key_text
from orvalho.control.metering import Event
from orvalho.daemon import events
from orvalho.daemon.events import Events
from orvalho.daemon.house import House
from orvalho.daemon.run_record import Arrival
from orvalho.errors import Untrusted
from orvalho.peers.watching import PeerEvent
from orvalho.policies.access import AccessRequest, Decision
from orvalho.policies.usage import Charge


class RunNews:
    """Publishes what happens to one script after the other."""

    def __init__(self, all_events: Events, name_of: Callable[[Arrival], str]) -> None:
        self._events = all_events
        self._name_of = name_of

    def received(self, arrival: Arrival) -> None:
        self._on_its_way(arrival, "script.received", "has come")

    def started(self, arrival: Arrival) -> None:
        self._on_its_way(arrival, "script.started", "runs")

    def _on_its_way(self, arrival: Arrival, kind: str, what: str) -> None:
        if not self._events.is_followed:
            return
        call = arrival.script.call
        requester = self._name_of(arrival)
        self._events.publish(
            Event(
                kind=kind,
                at=time.time(),
                level="info",
                text=f"{call.filename} of {requester} {what}",
                run=arrival.run,
                requester=requester,
                key=key_text(arrival.script.signed_by),
                node_key=key_text(arrival.sender),
                groups=arrival.groups,
                digest=arrival.script.script.digest,
                filename=call.filename,
                context=call.target.context,
            )
        )

    def decided(self, run: str, request: AccessRequest, decision: Decision) -> None:
        kind = "script.decided" if request.action == "script.run" else "access.decided"
        self._events.decided(request, decision, kind=kind, run=run)

    def ended(self, charge: Charge) -> None:
        if self._events.is_followed:
            self._events.publish(events.ended(charge))

    def refused(self, node: str | None, key: Key, error: Untrusted) -> None:
        """One whose signature, target, age or novelty did not hold."""
        if not self._events.is_followed:
            return
        self._events.publish(
            Event(
                kind="script.refused",
                at=time.time(),
                level="warn",
                text=f"a script of {node or key_text(key)} is refused: {error.message}",
                requester=node,
                node_key=key_text(key),
                allowed=False,
            )
        )


def publish_peer(house: House, event: PeerEvent) -> None:
    """A peer came within reach, or went out of it."""
    if not house.events.is_followed:
        return
    peer = house.trust.by_key(event.peer)
    name = peer.name if peer else key_text(event.peer)
    house.events.publish(
        Event(
            kind="peer.linked" if event.is_online else "peer.lost",
            at=event.at,
            level="info",
            text=f"{name} is linked: {event.path}" if event.is_online else f"{name} is gone",
            requester=name,
            node_key=key_text(event.peer),
        )
    )
