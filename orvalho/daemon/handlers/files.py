"""A peer's file: decide, make room, take its parts, compare the hash, put it into the tree.

Nothing of it is seen in the tree before all of it is there and its hash holds. A draft outlives
this process; a sender that offers the same file again goes on with it.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio.abc
import msgspec
from anyio import to_thread

from orvalho.contexts.context import Context
from orvalho.contexts.filesystem import FileAction, VirtualPath, unchecked, virtual_path
from orvalho.contexts.history import Origin
from orvalho.contexts.identity import Key
from orvalho.contexts.trust import ContextEntry, Peer
from orvalho.daemon.broker import Question
from orvalho.daemon.draft import Draft
from orvalho.daemon.file_words import (
    ID_BYTES,
    PART_BYTES,
    Finish,
    Offer,
    Part,
    Placed,
    Taken,
    Wanted,
)
from orvalho.daemon.house import House
from orvalho.daemon.selection import meant_context
from orvalho.daemon.subjects import peer_subject
from orvalho.daemon.wire import decode, encode
from orvalho.errors import Denied, InvalidInput, LimitExceeded, NotFound, OrvalhoError, Untrusted
from orvalho.policies.access import AccessRequest, Decision, Subject
from orvalho.policies.audit import decided
from orvalho.policies.explain import refusal

_log = logging.getLogger(__name__)

_OPEN_PER_PEER: Final = 8
_LEFT_PER_PEER: Final = 32
_NOTED_AT_ONCE_BYTES: Final = 1 << 20
_FINISHED: Final = 256
_KEPT_FREE_BYTES: Final = 64 << 20
_DRAFT_LIFE_S: Final = 7 * 86_400.0


@dataclass(slots=True)
class _Arriving:
    """One file on its way in: from whom, for which context and place, and its draft."""

    offer: Offer
    subject: Subject
    context: Context
    place: VirtualPath
    draft: Draft
    explains: bool


class FileHandler:
    """Answers `file.offer`, `file.part` and `file.finish`. The sender is a linked peer; a
    transfer belongs to the one that offered it."""

    def __init__(self, house: House, tasks: anyio.abc.TaskGroup) -> None:
        self._house = house
        self._tasks = tasks
        self._directory = house.home.state / "incoming"
        self._arriving: dict[tuple[Key, bytes], _Arriving] = {}
        self._finished: OrderedDict[tuple[Key, bytes], Placed] = OrderedDict()

    async def offer(self, sender: Key, body: bytes) -> bytes:
        """Raises:
        Denied: the policy does not let this context write there.
        LimitExceeded: no room for it, or too many of this peer's files at once.
        InvalidInput, NotFound: no such context, or a name that cannot be.
        """
        offer = decode(body, Offer)
        key = (sender, offer.id)
        arriving = self._admit(sender, offer)
        await self._ask_broker(arriving)
        self._finished.pop(key, None)
        known = self._arriving.get(key)
        if known is not None and known.offer.size_bytes == offer.size_bytes:
            arriving.draft = known.draft
        else:
            await self._check_room(key, arriving)
            await to_thread.run_sync(_make_directory, self._directory)
            await arriving.draft.open()
        self._arriving[key] = arriving
        return encode(Wanted(at=arriving.draft.at, context=arriving.context.name))

    async def part(self, sender: Key, body: bytes) -> bytes:
        """Raises:
        NotFound: there is no such transfer: it must be offered (again).
        Conflict, LimitExceeded, Unavailable: as `Draft.take`.
        """
        part = decode(body, Part)
        if len(part.content) > PART_BYTES:
            raise InvalidInput(f"a part has at most {PART_BYTES} bytes")
        arriving = self._find(sender, part.id)
        return encode(Taken(at=await arriving.draft.take(part.offset, part.content)))

    async def finish(self, sender: Key, body: bytes) -> bytes:
        """Raises:
        NotFound: there is no such transfer.
        Untrusted: what came is not what was sent; it must come again from the start.
        Denied, LimitExceeded, Unavailable: as `ContextFiles.adopt`.
        """
        finish = decode(body, Finish)
        key = (sender, finish.id)
        if (placed := self._finished.get(key)) is not None:
            return encode(placed)
        arriving = self._find(sender, finish.id)
        if arriving.draft.at != arriving.offer.size_bytes:
            raise NotFound(f"only {arriving.draft.at} bytes of it are here")
        if await arriving.draft.digest() != finish.sha256:
            del self._arriving[key]
            arriving.draft.remove()
            raise Untrusted("the file that arrived is not the one that was sent")
        await self._ask_broker(arriving)
        placed = await self._place(arriving, finish.sha256)
        self._arriving.pop(key, None)
        self._finished[key] = placed
        if len(self._finished) > _FINISHED:
            self._finished.popitem(last=False)
        return encode(placed)

    # ---- decide -----------------------------------------------------------------------------

    def _admit(self, sender: Key, offer: Offer) -> _Arriving:
        house = self._house
        peer = house.trust.by_key(sender)
        if peer is None:
            raise Untrusted("this node does not know the sender")
        if len(offer.id) != ID_BYTES or offer.size_bytes < 0 or "/" in offer.name:
            raise InvalidInput("the offer of a file is malformed")
        subject = self._subject(peer, offer.caller)
        context = self._context(offer.context)
        place = virtual_path(f"{virtual_path(offer.directory)}/{offer.name}")
        if place == virtual_path(offer.directory):
            raise InvalidInput("a file has a name", where=offer.directory)
        explain_to = house.settings.config.policy.explain_to
        arriving = _Arriving(
            offer=offer,
            subject=subject,
            context=context,
            place=place,
            draft=Draft(self._directory / f"{sender.hex()}-{offer.id.hex()}", offer.size_bytes),
            explains=explain_to == "all" or (explain_to == "own" and peer.relation == "own"),
        )
        self._decide(arriving, "fs.write", place)
        return arriving

    def _subject(self, peer: Peer, name: str) -> Subject:
        """The sender's node vouches for its contexts, and it is the node that speaks."""
        entry = peer.context(name)
        if entry is None:
            raise Untrusted(f'{peer.name} has not shown a context "{name}"', where=peer.name)
        return peer_subject(peer, entry.name, Key(entry.key), self._house.groups)

    def _context(self, name: str) -> Context:
        house = self._house
        entries = [ContextEntry(name=each.name, key=each.key) for each in house.contexts.list()]
        usual = house.settings.config.context
        found, problem = meant_context(house.name, entries, name or None, usual)
        if found is None:
            assert problem is not None
            raise problem
        return house.contexts.get(found.name)

    async def _ask_broker(self, arriving: _Arriving) -> None:
        """Raises:
        Denied: the owner's broker does not want it; audited.
        """
        asked = AccessRequest(arriving.subject, arriving.context.name, "fs.write", arriving.place)
        try:
            await self._house.broker.require(Question(asked), explains=arriving.explains)
        except Denied as error:
            decision = Decision(allowed=False)
            entry = decided(asked, decision, at=time.time(), text=error.message)
            self._house.audit.note(msgspec.structs.replace(entry, cause="broker"))
            raise

    def _decide(self, arriving: _Arriving, action: FileAction, place: VirtualPath) -> Decision:
        asked = AccessRequest(arriving.subject, arriving.context.name, action, place)
        decision = self._house.policy.decide(asked)
        if not decision.allowed:
            self._house.audit.note(decided(asked, decision, at=time.time(), text="a file, sent"))
            self._house.events.decided(asked, decision, kind="file.decided", run=None)
            if arriving.explains:
                raise refusal(asked, decision)
            raise Denied(f"{action} {place} is not allowed", where=place)
        return decision

    # ---- room -------------------------------------------------------------------------------

    async def _check_room(self, key: tuple[Key, bytes], arriving: _Arriving) -> None:
        sender, context = key[0], arriving.context
        others = [each for at, each in self._arriving.items() if at[0] == sender and at != key]
        if len(others) >= _OPEN_PER_PEER:
            # A sender that gave up says nothing: the one that has waited longest makes room.
            oldest = next(at for at in self._arriving if at[0] == sender and at != key)
            self._arriving.pop(oldest).draft.remove()
        use = await context.usage()
        announced = sum(each.offer.size_bytes for each in others if each.context is context)
        open_ = {each.draft.path for each in (*others, arriving)}
        announced += await to_thread.run_sync(_left_bytes, self._directory, sender, open_)
        room = use.limits.disk_bytes - use.used_bytes - announced
        if arriving.offer.size_bytes > room or use.used_files >= use.limits.disk_files:
            raise LimitExceeded(
                f"storage_bytes: {context.name} may hold {use.limits.disk_bytes} bytes, and"
                f" {arriving.place} takes {arriving.offer.size_bytes} of the"
                f" {max(0, room)} that are left",
                where=arriving.place,
            )
        free = await to_thread.run_sync(shutil.disk_usage, self._house.home.state)
        if arriving.offer.size_bytes + _KEPT_FREE_BYTES > free.free:
            raise LimitExceeded("disk_space: the disk there has no room for the file")

    def _find(self, sender: Key, id_: bytes) -> _Arriving:
        arriving = self._arriving.get((sender, id_))
        if arriving is None:
            raise NotFound("no such file is on its way")
        return arriving

    # ---- keep -------------------------------------------------------------------------------

    async def _place(self, arriving: _Arriving, sha256: bytes) -> Placed:
        def check(action: FileAction, place: VirtualPath) -> None:
            self._decide(arriving, action, place)

        files = arriving.context.files(check)
        above = VirtualPath(arriving.place.rpartition("/")[0] or "/")
        # Asked of our own: a rule may allow the file and say nothing of the directory it is in.
        if not await arriving.context.files(unchecked).exists(above):
            await files.mkdir(above)
        path, is_new = await files.adopt(
            arriving.place, arriving.draft.path, sha256, reuses=self._may_read(arriving)
        )
        if is_new and arriving.offer.size_bytes <= _NOTED_AT_ONCE_BYTES:
            await self._note_commit(arriving, path)
        elif is_new:
            # Its content is copied for the history: nobody need wait for that.
            self._tasks.start_soon(self._note_commit, arriving, path)
        asked = AccessRequest(arriving.subject, arriving.context.name, "fs.write", path)
        what = "file received" if is_new else "file received, and lay there already"
        text = f"{what}: {arriving.offer.size_bytes} bytes, sha256:{sha256.hex()}"
        decision = self._house.policy.decide(asked)
        self._house.audit.note(decided(asked, decision, at=time.time(), text=text))
        self._house.events.decided(asked, decision, kind="file.decided", run=None)
        return Placed(path=path, is_new=is_new)

    async def _note_commit(self, arriving: _Arriving, path: VirtualPath) -> None:
        """It lies there already: what is not noted now is found by the next look."""
        name = arriving.context.name
        origin = Origin(
            context=name,
            author=arriving.subject.spoken,
            cause="file",
            at=time.time(),
            note=arriving.offer.name,
        )
        try:
            await self._house.past.hand_edits.note_file(arriving.context, path, origin)
        except OrvalhoError as error:
            _log.warning("file.not-noted", extra={"context": name, "why": error.message})

    def _may_read(self, arriving: _Arriving) -> bool:
        """Else "it lies there already" would tell what a file holds to one who may not read."""
        asked = AccessRequest(arriving.subject, arriving.context.name, "fs.read", arriving.place)
        return self._house.policy.decide(asked).allowed


def sweep_drafts(state: Path, now: float) -> int:
    """Delete drafts that nobody has gone on with for a week; how many there were."""
    swept = 0
    for draft in (state / "incoming").glob("*"):
        if draft.is_file() and now - draft.stat().st_mtime > _DRAFT_LIFE_S:
            draft.unlink(missing_ok=True)
            swept += 1
    return swept


def _left_bytes(directory: Path, sender: Key, open_: Collection[Path]) -> int:
    """What drafts of a sender hold that it does not go on with now; the oldest of many go. So
    giving up one transfer after the other does not fill the disk."""
    left = [each for each in directory.glob(f"{sender.hex()}-*") if each not in open_]
    left.sort(key=lambda draft: draft.stat().st_mtime)
    for draft in left[:-_LEFT_PER_PEER]:
        draft.unlink(missing_ok=True)
    return sum(draft.stat().st_size for draft in left[-_LEFT_PER_PEER:])


def _make_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
