"""Where grants meet runs: which ones we send with a script, and what those of others add here.

A grant adds to the rules and takes nothing from them: what a rule denies stays denied, what a rule
allows needs no grant, and a grant that does not hold adds nothing.
"""

from __future__ import annotations

import hashlib
import posixpath
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from orvalho.contexts.context import Context
from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.daemon.house import House
from orvalho.errors import Denied, InvalidInput, OrvalhoError, Untrusted
from orvalho.policies.access import AccessRequest, Decision
from orvalho.policies.audit import Entry
from orvalho.policies.grants import Grant, read_grant, read_text, rule_of
from orvalho.scripts.messages import RunScript
from orvalho.scripts.signing import Call, VerifiedScript

MAX_WITH_A_RUN: Final = 4


def bound_digest(filename: str, script_sha256: str, modules: Mapping[str, str]) -> str:
    """What a grant for one script is bound to: its digest, and those of the files that come with
    it, path -> digest. They are the sender's too, and would else be free to change. Paths count as
    seen from the script's own: where all of it lies may differ from device to device."""
    if not modules:
        return script_sha256
    top = posixpath.dirname(filename)
    beside = sorted((posixpath.relpath(path, top or "."), each) for path, each in modules.items())
    whole = msgspec.json.encode([script_sha256, beside])
    return hashlib.sha256(b"orvalho/script-with-modules/1\0" + whole).hexdigest()


def name_of_key(house: House, key: Key) -> str:
    """`bob` for a node's key, `gil@bob` for a context's; the key itself where we know neither."""
    if key == house.identity.node.key or key in house.identity.former_keys:
        return house.name
    peer = house.trust.by_key(house.trust.heir(key))
    if peer is not None:
        return peer.name
    for context in house.contexts.list():
        if context.key == key:
            return f"{context.name}@{house.name}"
    for each in house.trust.peers():
        found = next((entry.name for entry in each.contexts if entry.key == key), None)
        if found is not None:
            return f"{found}@{each.name}"
    return key_text(key)


def path_of(house: House, grant: Grant) -> str:
    """`to bob, handed on to carol`, by the names that we have for them."""
    names = [name_of_key(house, Key(link.holder)) for link in grant.links if link.holder]
    return ", handed on ".join(f"to {name}" for name in names) or "to whoever has it"


class Granted:
    """The grants that came with one run and hold, before the policy of this node."""

    def __init__(
        self,
        house: House,
        run: str,
        digest: str,
        grants: Sequence[Grant],
        faults: Sequence[OrvalhoError],
    ) -> None:
        self._house = house
        self._run = run
        self._digest = digest
        self._grants = list(grants)
        self._paths = {grant.id: path_of(house, grant) for grant in grants}
        self._used: dict[str, Grant] = {}
        self._is_counted = False
        self.faults = list(faults)

    def decide(self, request: AccessRequest) -> Decision:
        """The policy's answer, or that of a grant where no rule speaks. From any thread; asked
        again at each call, so what is revoked or ends meanwhile holds no longer."""
        decision = self._house.policy.decide(request)
        if decision.allowed or decision.rule is not None or not self._grants:
            return decision
        if not self._house.policy.takes_grants:
            return decision
        for grant in self._grants:
            words = grant.permits(request, self._digest)
            if words is None or not self._may_use(grant):
                continue
            self._used[grant.id] = grant
            return Decision(True, rule_of(grant, words, self._paths[grant.id]))
        return decision

    def _may_use(self, grant: Grant) -> bool:
        if self._is_counted and grant.id not in self._used and _is_limited(grant):
            return False
        return self._house.grants.fault(grant, time.time()) is None

    async def count(self, script: VerifiedScript, now: float) -> None:
        """Before the run begins: it counts for each grant that it is allowed by, or may still be.

        Raises:
            Denied: one was used as often as it may be.
        """
        for want in script.wants:
            if want.side == "target":
                for grant in self._grants:
                    if any(want.action == need.action for need in grant.needs):
                        self._used[grant.id] = grant
        self._is_counted = True
        for grant in list(self._used.values()):
            await self._house.grants.use(grant, self._run, now)


def reason_of(error: OrvalhoError, granted: Granted | None) -> OrvalhoError:
    """Why a run was refused: where no rule spoke, what was wrong with the grant it came with."""
    if isinstance(error, Denied) and error.rule is None and granted is not None and granted.faults:
        return granted.faults[0]
    return error


class Granting:
    """Reads grants that come with runs."""

    def __init__(self, house: House) -> None:
        self._house = house

    def read(self, message: RunScript, script: VerifiedScript, sender: Key) -> Granted:
        """What of a message's grants holds for its script, whose signature was checked. `sender`
        is the node's present key. What does not hold is audited."""
        digest = bound_digest(script.call.filename, script.call.script_sha256, script.call.modules)
        good: list[Grant] = []
        faults: list[OrvalhoError] = []
        for token in message.grants[:MAX_WITH_A_RUN]:
            try:
                good.append(self._checked(token, script, sender))
            except Untrusted as error:
                faults.append(error)
        if len(message.grants) > MAX_WITH_A_RUN:
            faults.append(Untrusted(f"a script comes with at most {MAX_WITH_A_RUN} grants"))
        for fault in faults:
            self._house.audit.note(_refused(script.call, name_of_key(self._house, sender), fault))
        return Granted(self._house, script.call.run, digest, good, faults)

    def _checked(self, token: bytes, script: VerifiedScript, sender: Key) -> Grant:
        """Raises:
        Untrusted: see each.
        """
        house = self._house
        grant = read_grant(token, house.identity.granting.key)
        if (fault := house.grants.fault(grant, time.time())) is not None:
            raise fault
        self._check_hands(grant)
        holder = grant.holder
        if holder is None or holder == script.signed_by or house.trust.heir(holder) == sender:
            return grant
        raise Untrusted(
            f"grant {grant.id} is for {name_of_key(house, holder)}, not for who signed this script",
            where=grant.id,
        )

    def _check_hands(self, grant: Grant) -> None:
        """Whether the keys that it went through are still good here."""
        house = self._house
        for link in grant.links:
            for key in (link.holder, link.holder_node):
                # A key that was changed is refused as such; its node need not be.
                if key is not None and house.trust.heir(Key(key)) in house.refused:
                    raise Untrusted(
                        f"grant {grant.id} went through a key that is refused here",
                        where=key_text(Key(key)),
                    )
        signers = [Key(link.holder) for link in grant.links[:-1] if link.holder]
        for key in signers if len(grant.links) > 1 else ():
            if house.trust.heir(key) != key:
                # Whoever has the old key could hand on to himself.
                raise Untrusted(
                    f"grant {grant.id} was handed on with a key that its node has changed since",
                    where=key_text(key),
                    hint="ask its issuer for another",
                )


def grants_for(
    house: House, asked: Iterable[str], call: Call, context: Context
) -> tuple[bytes, ...]:
    """The tokens that travel with a call of ours: those `asked` for, as text or by id, else those
    kept here that fit it.

    Raises:
        InvalidInput: a text is no grant, or there are too many.
        NotFound: no grant of that id is here.
    """
    given = tuple(asked)
    if len(given) > MAX_WITH_A_RUN:
        raise InvalidInput(f"a script goes with at most {MAX_WITH_A_RUN} grants")
    if given:
        return tuple(_token(house, text) for text in given)
    fitting = (each for each in house.grants.kept() if _fits(house, each, call, context))
    return tuple(grant.token for grant, _ in zip(fitting, range(MAX_WITH_A_RUN), strict=False))


def _token(house: House, text: str) -> bytes:
    if text[:2].lower() == "g_":
        return house.grants.find(text)[1].grant.token
    # The target judges it: our clock and our view of keys are not its own.
    return read_text(text)[0]


def _fits(house: House, grant: Grant, call: Call, context: Context) -> bool:
    identity, target = house.identity, parse_key(call.target.node_key)
    ours = (None, context.key, identity.node.key, *identity.former_keys)
    is_there = house.trust.heir(grant.issuer) == target or grant.issuer == target
    if not is_there or grant.context != call.target.context or grant.holder not in ours:
        return False
    digest = bound_digest(call.filename, call.script_sha256, call.modules)
    if time.time() >= grant.until or not grant.allows_script(digest):
        return False
    asked = [each for each in (*call.needs, *call.wants) if each.startswith("target.")]
    actions = {each.partition(":")[0] for each in asked}
    return not actions or any(f"target.{need.action}" in actions for need in grant.needs)


def _is_limited(grant: Grant) -> bool:
    return any(link.uses is not None for link in grant.links)


def _refused(call: Call, actor: str, fault: OrvalhoError) -> Entry:
    return Entry(
        at=time.time(),
        actor=actor,
        context=call.target.context,
        action="grant",
        object=fault.where or "",
        allowed=False,
        rule="grant",
        rule_text=fault.message,
        run=call.run,
        text=fault.message,
    )
