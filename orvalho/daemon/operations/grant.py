"""What we do when the owner gives, hands on, keeps or revokes a grant."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

from orvalho.contexts.identity import Key, Signer, key_text, parse_key
from orvalho.contexts.names import Address, parse_address
from orvalho.control import grants as control
from orvalho.control.messages import Message, Note
from orvalho.control.messages import Reply as AnyReply
from orvalho.daemon.granting import bound_digest, name_of_key
from orvalho.daemon.house import House
from orvalho.errors import InvalidInput, NotFound
from orvalho.policies.grant_book import Held
from orvalho.policies.grants import (
    PREFIX,
    Grant,
    GrantLink,
    issue,
    narrow,
    policy_lines,
    read_grant,
    read_text,
)

Replies = AsyncIterator[AnyReply]

# In which order what is known of one link is told.
_RANK: Final = {"issued": 0, "kept": 1, "narrowed": 2, "used": 3}


class GrantOperations:
    """`orvalho grant ...`."""

    def __init__(self, house: House) -> None:
        self._house = house

    def table(self) -> dict[type[Message], Callable[[Any], Any]]:
        """Its rows of the daemon's table: request -> operation."""
        return {
            control.GrantNew: self.new,
            control.GrantNarrow: self.narrow,
            control.GrantKeep: self.keep,
            control.GrantShow: self.show,
            control.GrantList: self.list,
            control.GrantRevoke: self.revoke,
            control.GrantForget: self.forget,
        }

    async def new(self, request: control.GrantNew) -> Replies:
        house, now = self._house, time.time()
        context = house.caller(request.context, "grant a right in")
        holder, node = self._holder(request.to)
        link = GrantLink(
            made_at=now,
            issuer=house.identity.node.key,
            context=context.name,
            needs=request.needs,
            holder=holder,
            holder_node=node,
            to=request.to,
            script=_bound(request),
            until=_later(request.until, now),
            uses=request.uses,
        )
        grant = issue(house.identity.granting, link)
        await house.grants.keep(grant, "issued", now)
        yield self._reply(grant)

    async def narrow(self, request: control.GrantNarrow) -> Replies:
        house, now = self._house, time.time()
        grant = self._grant(request.grant)
        holder, node = self._holder(request.to)
        link = GrantLink(
            made_at=now,
            needs=request.needs,
            holder=holder,
            holder_node=node,
            to=request.to,
            script=_bound(request),
            until=_later(request.until, now),
            uses=request.uses,
        )
        narrowed = narrow(grant, link, self._signer(grant))
        await house.grants.keep(narrowed, "narrowed", now)
        yield self._reply(narrowed)

    async def keep(self, request: control.GrantKeep) -> Replies:
        grant = _read(request.text)
        await self._house.grants.keep(grant, "kept", time.time())
        yield self._reply(grant)

    async def show(self, request: control.GrantShow) -> Replies:
        yield self._reply(self._grant(request.grant))

    async def list(self, _request: control.GrantList) -> Replies:
        held = self._house.grants.all()
        yield control.GrantListReply(
            links=tuple(self._tree(held)), policy=tuple(self._policy(held))
        )

    async def revoke(self, request: control.GrantRevoke) -> Replies:
        id_, grant = self._found(request.grant)
        if grant.root_key != self._house.identity.granting.key:
            raise InvalidInput(
                f"grant {id_} is not of this node: {self._name(grant.issuer)} can revoke it",
                where=id_,
            )
        is_new = await self._house.grants.revoke(id_, time.time())
        text = "is revoked: it, and all that was made of it, is refused from now on"
        yield Note(text=f"{id_} {text if is_new else 'was revoked before'}", changed=is_new)

    async def forget(self, request: control.GrantForget) -> Replies:
        id_, grant = self._found(request.grant)
        held = next((each for each in self._house.grants.all() if each.grant.id == id_), None)
        if held is None:
            raise NotFound(f"{id_} is a part of {grant.id} alone", hint="orvalho grant ls")
        is_ours = grant.root_key == self._house.identity.granting.key
        if is_ours and self._state(grant, len(grant.ids) - 1) == "good":
            raise InvalidInput(
                f"{id_} is a grant of this node, and would hold on",
                hint=f"orvalho grant revoke {id_}",
            )
        await self._house.grants.forget(id_)
        yield Note(text=f"{id_} is kept no longer")

    # ---- whose ------------------------------------------------------------------------------

    def _holder(self, to: str | None) -> tuple[Key | None, Key | None]:
        """The key that a name stands for, and that of its node where it is known."""
        if to is None:
            return None, None
        if to.startswith("ed25519:"):
            return parse_key(to), None
        address = parse_address(to)
        if address.node == self._house.name:
            return self._own_holder(address)
        target = self._house.trust.resolve(address)
        if target.context is not None:
            return Key(target.context.key), target.peer.node_key
        return target.peer.node_key, target.peer.node_key

    def _own_holder(self, address: Address) -> tuple[Key, Key]:
        node = self._house.identity.node.key
        if address.context is None:
            return node, node
        return self._house.contexts.get(address.context).key, node

    def _signer(self, grant: Grant) -> Signer | None:
        """Who signs the next link: the holder, if that is us.

        Raises:
            InvalidInput: it is somebody else, or a key that we have no longer.
        """
        house, holder = self._house, grant.holder
        if holder is None:
            return None
        signers = [house.identity.node, *(each.signer for each in house.contexts.list())]
        found = next((each for each in signers if each.key == holder), None)
        if found is not None:
            return found
        if holder in house.identity.former_keys:
            raise InvalidInput(
                f"grant {grant.id} is for the key that this node had before, which signs no more",
                hint=f"ask {self._name(grant.issuer)} for another",
            )
        raise InvalidInput(f"grant {grant.id} is for {self._name(holder)}, who alone can narrow it")

    def _name(self, key: Key) -> str:
        return name_of_key(self._house, key)

    # ---- which ------------------------------------------------------------------------------

    def _found(self, text: str) -> tuple[str, Grant]:
        if text.strip().startswith(PREFIX):
            grant = _read(text)
            return grant.id, grant
        id_, held = self._house.grants.find(text)
        return id_, held.grant

    def _grant(self, text: str) -> Grant:
        """Raises:
        NotFound: its text is not here, only that of one that was made of it.
        """
        id_, grant = self._found(text)
        if grant.id != id_:
            raise NotFound(f"{id_} is known only as a part of {grant.id}", hint="orvalho grant ls")
        return grant

    # ---- as told ----------------------------------------------------------------------------

    def _reply(self, grant: Grant) -> control.GrantReply:
        return control.GrantReply(
            grant=grant.id,
            issuer=self._name(grant.issuer),
            context=grant.context,
            needs=tuple(map(str, grant.needs)),
            to=self._name(grant.holder) if grant.holder else None,
            script=grant.script,
            until=grant.until if math.isfinite(grant.until) else None,
            state=self._state(grant, len(grant.ids) - 1),
            text=grant.text,
            links=tuple(self._link(grant, index, "") for index in range(len(grant.ids))),
        )

    def _state(self, grant: Grant, index: int) -> str:
        """How a link stands, as far as it is known here."""
        if any(self._house.grants.revoked_at(each) for each in grant.ids[: index + 1]):
            return "revoked"
        untils = [each.until for each in grant.links[: index + 1] if each.until is not None]
        return "ended" if untils and min(untils) <= time.time() else "good"

    def _link(self, grant: Grant, index: int, whence: str) -> control.GrantLinkState:
        link, id_ = grant.links[index], grant.ids[index]
        use = self._house.grants.use_of(id_)
        return control.GrantLinkState(
            grant=id_,
            parent=grant.ids[index - 1] if index else None,
            whence=whence,
            state=self._state(grant, index),
            issuer=self._name(grant.issuer),
            context=grant.context,
            to=self._name(Key(link.holder)) if link.holder else None,
            holder=key_text(Key(link.holder)) if link.holder else None,
            needs=link.needs,
            script=link.script,
            until=link.until,
            uses=link.uses,
            made_at=link.made_at,
            used=use.uses if use else 0,
            last_used_at=use.last_used_at if use else None,
            revoked_at=self._house.grants.revoked_at(id_),
        )

    def _tree(self, held: Sequence[Held]) -> Iterator[control.GrantLinkState]:
        """Each link once, after the one that it was made of."""
        whence = {each.grant.id: each.whence for each in held}
        links: dict[str, control.GrantLinkState] = {}
        for each in sorted(held, key=lambda one: _RANK[one.whence]):
            for index, id_ in enumerate(each.grant.ids):
                if id_ not in links:
                    links[id_] = self._link(each.grant, index, whence.get(id_, ""))
        below: dict[str | None, list[control.GrantLinkState]] = {}
        for link in sorted(links.values(), key=lambda one: one.made_at):
            below.setdefault(link.parent, []).append(link)
        waiting = below.get(None, [])[::-1]
        while waiting:
            link = waiting.pop()
            yield link
            waiting += below.get(link.grant, [])[::-1]

    def _policy(self, held: Sequence[Held]) -> Iterator[str]:
        ours = self._house.identity.granting.key
        for each in held:
            grant = each.grant
            if grant.root_key == ours and self._state(grant, len(grant.ids) - 1) == "good":
                holder = self._name(grant.holder) if grant.holder else "whoever has it"
                yield f"# grant {grant.id} of {holder}"
                yield from policy_lines(grant)


def _read(text: str) -> Grant:
    return read_grant(*read_text(text))


def _bound(request: control.GrantNew | control.GrantNarrow) -> str | None:
    if request.script is None:
        return None
    return bound_digest(request.filename, request.script, request.modules)


def _later(until: float | None, now: float) -> float | None:
    if until is not None and until <= now:
        raise InvalidInput("a grant ends in the future, not before it begins")
    return until
