"""What we do when the owner asks how this node is, or tells it to stop."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from anyio import to_thread

from orvalho import __version__
from orvalho.contexts.identity import key_text
from orvalho.control import messages as control
from orvalho.daemon import config as configuration
from orvalho.daemon.house import House
from orvalho.daemon.peer_words import peer_state, refused_hint
from orvalho.daemon.schema_words import schema_problems

Replies = AsyncIterator[control.Reply]

_LITTLE_DISK_BYTES = 256 << 20


class NodeOperations:
    """`orvalho status`, `doctor`, `daemon stop`, `worker ls`, and completion."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def status(self, _request: control.Status) -> Replies:
        house = self._house
        yield control.StatusReply(
            node=house.name,
            key=key_text(house.identity.node.key),
            version=__version__,
            pid=os.getpid(),
            started_at=house.started_at,
            listening=house.node.addresses,
            contexts=tuple(context.name for context in house.contexts.list()),
            peers=tuple([await peer_state(house, peer) for peer in house.trust.peers()]),
            runs=house.ledger.statistics()["running"],
            problems=(
                *(text for texts in house.problems.values() for text in texts),
                *(text for text, _ in house.mesh.problems()),
                *await schema_problems(house),
            ),
            held=sum(
                run.state == "held" for run in await house.runs.open_runs("received", held=True)
            ),
        )

    async def stop(self, request: control.DaemonStop) -> Replies:
        self._house.stop(request.grace_s)
        yield control.Done()

    async def workers(self, _request: control.WorkerList) -> Replies:
        yield control.WorkerListReply(
            workers=tuple(
                control.WorkerState(
                    worker=each.id,
                    pid=each.pid,
                    contexts=tuple(sorted(each.contexts)),
                    running=each.running,
                    runs=each.runs,
                    started_at=each.started_at,
                    rss_bytes=each.rss_bytes,
                )
                for each in self._house.jobs.workers.list()
            )
        )

    async def doctor(self, _request: control.Doctor) -> Replies:
        yield control.DoctorReply(findings=tuple(await self.findings()))

    async def findings(self) -> list[control.Finding]:
        """What is well with this node and what is not."""
        return [
            *self._settings(),
            *self._storage(),
            *self._mounts(),
            *self._broker(),
            *await self._peers(),
            *await self._engine(),
        ]

    async def complete(self, request: control.Complete) -> Replies:
        words = await self._words(request.kind, request.text)
        yield control.Completions(words=tuple(w for w in words if w.startswith(request.text)))

    async def _words(self, kind: str, text: str) -> list[str]:
        house = self._house
        own = [f"{context.name}@{house.name}" for context in house.contexts.list()]
        theirs = [f"{e.name}@{peer.name}" for peer in house.trust.peers() for e in peer.contexts]
        match kind:
            case "target":
                return [*theirs, *own, *self._several()]
            case "peer":
                return [peer.name for peer in house.trust.peers()]
            case "context":
                return [context.name for context in house.contexts.list()]
            case "group":
                return list(house.groups.names())
            case "run":
                return [run.id for run in await house.runs.newest(100)]
            case "library":
                return list(await to_thread.run_sync(house.libraries.names))
            case "key":
                return list(configuration.keys(house.groups.names()))
        return []

    def _several(self) -> Iterator[str]:
        house = self._house
        yield "all"
        yield from (f"@{group}" for group in house.groups.names())
        labels = {label for each in house.greeted.values() for label in each.labels}
        yield from (f"any@{label}" for label in sorted(labels))

    def _settings(self) -> Iterator[control.Finding]:
        house = self._house
        yield _ok(f"{house.name} runs, version {__version__}")
        for origin, texts in house.problems.items():
            for text in texts:
                hint = house.hints.get(text, f"edit the file: {origin} stays as it was")
                yield control.Finding(level="problem", text=text, hint=hint)
        if not house.problems.get("policy"):
            yield _ok(f"policy: {house.policy.statistics()['rules']} rules are in force")
        yield from (_reading(*each) for each in sorted(house.policy.readings().items()))
        if not house.contexts.list():
            yield control.Finding(
                level="problem", text="there is no context", hint="orvalho ctx new NAME"
            )

    def _storage(self) -> Iterator[control.Finding]:
        house = self._house
        mode = (house.home.keys / "seed").stat().st_mode & 0o777
        yield _ok(f"keys: readable by their owner alone ({mode:04o})")
        free = shutil.disk_usage(house.home.state).free
        if free < _LITTLE_DISK_BYTES:
            yield control.Finding(
                level="warning",
                text=f"only {free >> 20} MiB are free where {house.home.state} lies",
                hint="make room: what cannot be written is refused, not lost",
            )
        else:
            yield _ok(f"disk: {free >> 30} GiB free")

    def _mounts(self) -> Iterator[control.Finding]:
        for each in self._house.mounts.view():
            if each.state == "failing":
                yield control.Finding(
                    level="warning",
                    text=f"{each.context}:{each.place} cannot be used: {each.error}",
                    hint="orvalho ctx mounts",
                )

    def _broker(self) -> Iterator[control.Finding]:
        broker = self._house.settings.config.policy.broker
        if broker.socket and not Path(broker.socket).is_socket():
            yield control.Finding(
                level="warning",
                text=f"the broker does not listen at {broker.socket}: what it is asked is refused",
                hint="start the broker, or orvalho config unset policy.broker.actions",
            )

    async def _peers(self) -> list[control.Finding]:
        house = self._house
        found = [self._listening()]
        for text, hint in house.mesh.problems():
            found.append(control.Finding(level="warning", text=text, hint=hint))
        peers = house.trust.peers()
        if not peers:
            found.append(
                control.Finding(
                    level="warning", text="no other device is paired", hint="orvalho pair"
                )
            )
        for peer in peers:
            state = await peer_state(house, peer)
            found.append(
                _ok(f"{peer.name}: {state.path}")
                if state.state == "online"
                else control.Finding(
                    level="warning",
                    text=f"{peer.name} is not reached: {state.path}",
                    hint=refused_hint(house, peer)
                    if house.node.is_refused_by(peer.node_key)
                    else f"on {peer.name}: orvalho status",
                )
            )
            if refusal := house.node.depots.depositor.refusal(peer.node_key):
                found.append(
                    control.Finding(
                        level="warning",
                        text=f"mail for {peer.name} is kept here alone: {refusal}",
                        hint="orvalho status",
                    )
                )
        return found

    def _listening(self) -> control.Finding:
        addresses = self._house.node.addresses
        if addresses:
            return _ok(f"listens on {', '.join(addresses)}")
        return control.Finding(
            level="problem", text="listens nowhere", hint="orvalho config set listen ..."
        )

    async def _engine(self) -> list[control.Finding]:
        problems = await self._house.jobs.check("doctor.js", "1 + 1")
        if problems:
            return [control.Finding(level="problem", text=f"no worker runs: {problems[0]}")]
        missing = {wall for each in self._house.jobs.workers.list() for wall in each.missing}
        return [
            _ok("a worker runs scripts"),
            *(
                control.Finding(level="warning", text=f"this system offers no {wall} for workers")
                for wall in sorted(missing)
            ),
        ]


def _reading(probe: str, said: str | None) -> control.Finding:
    """What a condition of a rule finds when it asks for this."""
    if said is not None:
        return _ok(f"conditions: {said}")
    return control.Finding(
        level="warning",
        text=f"conditions: {probe} is not known here, so no rule allows anything by it",
        hint="orvalho config set policy.readings FILE",
    )


def _ok(text: str) -> control.Finding:
    return control.Finding(level="ok", text=text)
