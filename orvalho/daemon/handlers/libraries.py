"""A peer asks about our libraries: decide, then look. Who may not see one does not learn whether it
is there."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from anyio import to_thread

from orvalho.contexts.identity import Key
from orvalho.contexts.names import check_label, near_miss
from orvalho.contexts.trust import Peer
from orvalho.daemon.house import House
from orvalho.daemon.library_words import (
    PART_BYTES,
    AskPart,
    Listed,
    ListLibraries,
    Part,
    RunningServices,
    ShowLibrary,
    row_of,
    shown_of,
)
from orvalho.daemon.subjects import peer_subject
from orvalho.daemon.wire import decode, encode
from orvalho.errors import Conflict, Denied, InvalidInput, NotFound, Untrusted
from orvalho.policies.access import ANY, AccessRequest, Decision, Subject
from orvalho.policies.audit import decided
from orvalho.policies.explain import refusal
from orvalho.scripts.library import Library, missing
from orvalho.scripts.manifest import read_header
from orvalho.scripts.reference import Reference, read_reference
from orvalho.scripts.script import Language, Script, Source
from orvalho.scripts.signing import Call

# Any of them lets its holder know what a library is: who may fetch or call it has to.
_SEEING: Final = ("lib.list", "lib.get", "lib.call")
_AGAIN: Final = "try it again: what it is now is then asked anew"


class LibraryHandler:
    """Answers `lib.list`, `lib.show` and `lib.part`. Libraries are the node's: in policy lines that
    are about them the context is `*`, but for `lib.call`, which runs in one."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def list(self, sender: Key, body: bytes) -> bytes:
        """Those that the asker may see.

        Raises:
            Denied: it may see none, whether there are any or not.
        """
        peer, subject = self._asker(sender, decode(body, ListLibraries).caller)
        found = await to_thread.run_sync(self._house.libraries.list)
        seen = tuple(each for each in found if self._may(subject, "lib.list", each.name).allowed)
        if not seen:
            self._decide(peer, subject, ("lib.list",), ANY)
        return encode(Listed(libraries=tuple(map(row_of, seen))))

    async def show(self, sender: Key, body: bytes) -> bytes:
        """Raises:
        Denied: the asker may neither see, fetch nor call it.
        NotFound: it may, but there is none of that name.
        """
        asked = decode(body, ShowLibrary)
        check_label(asked.name)
        peer, subject = self._asker(sender, asked.caller)
        return encode(shown_of(await self._find(peer, subject, asked.name)))

    async def part(self, sender: Key, body: bytes) -> bytes:
        """Raises:
        Denied: the asker may not fetch it.
        NotFound: there is none of that name.
        Conflict: its bytes are others now.
        """
        asked = decode(body, AskPart)
        check_label(asked.name)
        peer, subject = self._asker(sender, asked.caller)
        is_first = asked.offset == 0
        library = await self._find(peer, subject, asked.name, is_noted=is_first)
        self._decide(peer, subject, ("lib.get",), asked.name, is_noted=is_first)
        check_digest(library, asked.sha256, self._house.name)
        offset = max(0, asked.offset)
        return encode(Part(content=library.content[offset : offset + PART_BYTES]))

    async def services(self, sender: Key, body: bytes) -> bytes:
        """What runs here of the libraries that the asker may see.

        Raises:
            Denied: it may see none.
        """
        peer, subject = self._asker(sender, decode(body, ListLibraries).caller)
        names = await to_thread.run_sync(self._house.libraries.names)
        if not any(self._may(subject, "lib.list", name).allowed for name in names):
            self._decide(peer, subject, ("lib.list",), ANY)
        seen = tuple(
            each
            for each in self._house.services.list()
            if self._may(subject, "lib.list", each.library).allowed
        )
        return encode(RunningServices(services=seen))

    # ---- decide ------------------------------------------------------------------------------

    def _asker(self, sender: Key, caller: str) -> tuple[Peer, Subject]:
        peer = self._house.trust.by_key(sender)
        if peer is None:
            raise Untrusted("this node does not know the sender")
        entry = peer.context(caller)
        if entry is None:
            raise Untrusted(f'{peer.name} has not shown a context "{caller}"', where=peer.name)
        return peer, peer_subject(peer, entry.name, Key(entry.key), self._house.groups)

    async def _find(
        self, peer: Peer, subject: Subject, name: str, *, is_noted: bool = True
    ) -> Library:
        """Raises:
        Denied: the asker may see none of such a name.
        NotFound: there is none; or there is, and a rule hides that one from the asker.
        """
        house = self._house
        if not self._sees(subject, name) and self._sees(subject, ANY):
            # Among names that the asker may ask about, this one is like any that is not there.
            asked = AccessRequest(subject, ANY, "lib.list", name)
            house.audit.note(decided(asked, self._may(subject, "lib.list", name), at=time.time()))
        else:
            self._decide(peer, subject, _SEEING, name, is_noted=is_noted)
            with suppress(NotFound):
                return await to_thread.run_sync(house.libraries.find, name)
        names = await to_thread.run_sync(house.libraries.names)
        near = near_miss(name, [each for each in names if self._sees(subject, each)])
        raise missing(name, near)

    def _sees(self, subject: Subject, name: str) -> bool:
        """A rule that says no to `lib.list` hides it; where none does, whoever may fetch or call it
        sees it as well."""
        listed = self._may(subject, "lib.list", name)
        if listed.allowed or listed.rule is not None:
            return listed.allowed
        return any(self._may(subject, each, name).allowed for each in _SEEING)

    def _may(self, subject: Subject, action: str, name: str) -> Decision:
        decide = self._house.policy.decide
        decision = decide(AccessRequest(subject, ANY, action, name))
        if decision.allowed or action != "lib.call":
            return decision
        # Whoever may call it in one context may know what it takes.
        in_one = (
            decide(AccessRequest(subject, each.name, action, name))
            for each in self._house.contexts.list()
        )
        return next((each for each in in_one if each.allowed), decision)

    def _decide(
        self,
        peer: Peer,
        subject: Subject,
        actions: tuple[str, ...],
        name: str,
        *,
        is_noted: bool = True,
    ) -> None:
        """Any of the actions will do."""
        house = self._house
        found = [(action, self._may(subject, action, name)) for action in actions]
        action, decision = next((each for each in found if each[1].allowed), found[0])
        asked = AccessRequest(subject, ANY, action, name)
        if is_noted or not decision.allowed:
            house.audit.note(decided(asked, decision, at=time.time()))
        if decision.allowed:
            return
        explain_to = house.settings.config.policy.explain_to
        if explain_to == "all" or (explain_to == "own" and peer.relation == "own"):
            raise refusal(asked, decision)
        raise Denied(f"{action} {name} is not allowed", where=name)


def reference_of(script: Script) -> Reference | None:
    """Which library a script names; None for one that is carried whole.

    Raises:
        InvalidInput: it names none.
    """
    return read_reference(script.text) if script.language is Language.LIBRARY else None


async def called(house: House, reference: Reference, call: Call) -> tuple[str, Source]:
    """Filename and bytes of the library that a call may run; who may has been decided.

    Raises:
        NotFound: there is none of that name.
        Conflict: it is another one than was signed, or needs something else.
        InvalidInput: it is none that is called.
    """
    try:
        library = await to_thread.run_sync(house.libraries.find, reference.library)
    except NotFound:
        # Without the name that was meant, which the caller perhaps may not see.
        raise missing(reference.library) from None
    check_digest(library, reference.sha256, house.name)
    if library.metadata is None:
        raise InvalidInput(f"{library.filename} is a text: it is imported, not called")
    # What it may touch its publisher says, whatever the caller has signed.
    manifest = read_header(library.header, f"{library.filename}.toml")
    needs, wants = tuple(map(str, manifest.needs)), tuple(map(str, manifest.wants))
    if (needs, wants) != (call.needs, call.wants):
        raise Conflict(
            f"digest differs: what {library.name} on {house.name} needs is no longer the same",
            where=library.name,
            hint=_AGAIN,
        )
    return library.filename, library.content


def check_digest(library: Library, sha256: str, node: str) -> None:
    """Raises:
    Conflict: the library is another one than was asked for.
    """
    if library.sha256 != sha256:
        raise Conflict(
            f"digest differs: {library.name} on {node} is sha256:{library.sha256[:12]}... now, and"
            f" sha256:{sha256[:12]}... was meant",
            where=library.name,
            hint=_AGAIN,
        )
