"""Sources that travel once: which of them a peer has already, and asking for one that we lack.

A sender leaves out what the target has confirmed. The target may have lost it: then it asks, and
waits for the sender, with the envelope in its mailbox, for as long as that takes.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Final

import anyio
import msgspec

from orvalho.contexts.identity import Key, key_text
from orvalho.daemon.house import House
from orvalho.errors import NotFound, OrvalhoError, Unavailable, Untrusted
from orvalho.retry import Backoff
from orvalho.scripts import sources
from orvalho.scripts.messages import AskSource, RunScript, SourcePart, decode, encode
from orvalho.scripts.modules import MAX_MODULES, MAX_MODULES_BYTES, digest_of
from orvalho.scripts.runs import Direction
from orvalho.scripts.script import MAX_MODULE_BYTES, Source
from orvalho.scripts.signing import Call

_log: Final = logging.getLogger(__name__)
ASK: Final = "script.source"
_PART_BYTES: Final = 1 << 20
_ANSWER_S: Final = 60.0


class Bodies:
    """Both sides of it, for the scripts of one node."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def without_known(self, message: RunScript, to: Key) -> RunScript:
        """The message as it travels: without the sources that its target has."""
        large = sources.large(message.script, message.modules)
        if not large:
            return message
        read = partial(sources.held_by, peer_key=key_text(to), digests=set(large.values()))
        known = await self._house.store.read(read)
        held = {path: digest for path, digest in large.items() if digest in known}
        if not held:
            return message
        is_kept = "" not in held
        return msgspec.structs.replace(
            message,
            source=message.source if is_kept else "",
            module=message.module if is_kept else b"",
            modules={path: text for path, text in message.modules.items() if path not in held},
            held=held,
        )

    async def fill(self, message: RunScript, sender: Key, call: Call, until: float) -> RunScript:
        """The message with all its sources, of which only those that its signed `call` names are
        looked for, until that moment in Unix seconds. They are taken for what they are said to be:
        whoever verifies the call looks at their digests.

        Raises:
            Untrusted: what was left out is not to be had from its sender.
        """
        if len(call.modules) > MAX_MODULES:
            raise Untrusted(f"a script has at most {MAX_MODULES} modules, not {len(call.modules)}")
        modules = dict(message.modules)
        source, module = message.source, message.module
        room_bytes = MAX_MODULES_BYTES
        for path, digest in message.held.items():
            if digest != (call.modules.get(path) if path else call.script_sha256):
                raise Untrusted("a source that was left out is none of the call's", where=path)
            most = room_bytes if path else MAX_MODULE_BYTES
            found = await self._find(digest, sender, most, until)
            if isinstance(found, bytes) and not path:
                module = found
            elif isinstance(found, str) and not path:
                source = found
            elif isinstance(found, str):
                modules[path] = found
                room_bytes -= len(found.encode())
            else:
                raise Untrusted("a source that was left out is no text", where=path)
        return msgspec.structs.replace(
            message, source=source, module=module, modules=modules, held={}
        )

    async def answer(self, sender: Key, body: bytes) -> bytes:
        """A target lacks a source that went to it once: give it a part.

        Raises:
            NotFound: nothing of that digest was ever sent there.
        """
        asked = decode(body, AskSource)
        found = await self._between(asked.digest, sender, "sent")
        if found is None:
            raise NotFound("no source of that digest was sent to this node")
        raw = found if isinstance(found, bytes) else found.encode()
        offset = max(0, asked.offset)
        return encode(
            SourcePart(
                size_bytes=len(raw),
                is_bytes=isinstance(found, bytes),
                content=raw[offset : offset + _PART_BYTES],
            )
        )

    async def _between(self, digest: str, peer: Key, direction: Direction) -> Source | None:
        read = partial(sources.between, peer_key=key_text(peer), digest=digest, direction=direction)
        return await self._house.store.read(read)

    async def _find(self, digest: str, sender: Key, most: int, until: float) -> Source:
        # A sender may change its key while its script waits here: what had ended by then stands
        # under the old one.
        for key in {sender, self._heir(sender)}:
            found = await self._between(digest, key, "received")
            if found is not None:
                return found
        _log.info("source.missing", extra={"digest": digest})
        backoff = Backoff()
        while True:
            try:
                return await self._fetch(digest, self._heir(sender), most)
            except Unavailable as error:
                if self._house.trust.by_key(self._heir(sender)) is None:
                    raise Untrusted("the script's sender is no peer any more") from error
                if time.time() > until:
                    raise Untrusted(
                        "the script expired while a source of it was missing"
                    ) from error
                backoff.failed(0.0)
                await anyio.sleep(backoff.retry_at)
            except (OrvalhoError, UnicodeDecodeError) as error:
                raise Untrusted(
                    "the script came without a source that this node does not have"
                ) from error

    def _heir(self, sender: Key) -> Key:
        return self._house.trust.heir(sender)

    async def _fetch(self, digest: str, sender: Key, most: int) -> Source:
        """At most so many bytes.

        Raises:
            NotFound: the sender does not have it either.
            Unavailable: it cannot be reached.
            Untrusted: it sends something else.
        """
        raw = b""
        while True:
            asked = AskSource(digest=digest, offset=len(raw))
            answer = await self._house.node.ask(sender, ASK, encode(asked), timeout_s=_ANSWER_S)
            part = decode(answer, SourcePart)
            raw += part.content
            if max(part.size_bytes, len(raw)) > most or not part.content:
                raise Untrusted("a source that was asked for is too large, or empty")
            if len(raw) >= part.size_bytes:
                break
        if digest_of(raw) != digest:
            raise Untrusted("a source that was asked for came as another one")
        return raw if part.is_bytes else raw.decode()
