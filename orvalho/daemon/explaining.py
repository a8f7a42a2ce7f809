"""From a request to the whole reason: who asked, which rules were tried, and what would help.

What a run did is told from the audit log; the rules that were tried are those of now, and where
they answer otherwise than then, that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from anyio import to_thread

from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.contexts.names import parse_address
from orvalho.control import why
from orvalho.daemon.house import House
from orvalho.daemon.peer_words import path_to
from orvalho.daemon.subjects import own_subject, peer_subject
from orvalho.daemon.why_words import read_question
from orvalho.errors import InvalidInput, OrvalhoError
from orvalho.policies import mend
from orvalho.policies.access import ANY, OWNER, PAIRED, AccessRequest, Decision, Subject
from orvalho.policies.audit import Entry
from orvalho.policies.capability import parse_capability
from orvalho.policies.explain import sentence
from orvalho.policies.mend import Imagined, smallest_edit
from orvalho.policies.rule_set import RuleSet
from orvalho.policies.subjects import group_mistake
from orvalho.policies.trail import Tried, closest, trail

# An edit is looked for by reading all files again; nobody mends more at once.
_MOST_EDITS: Final = 8
_OWN_MODEL: Final = (
    "model.conf is your own: it decides, and which columns differ is said by the shipped one"
)
# Nor does anybody read more.
_MOST_TRAILS: Final = 100


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, as the rules see it. `node_key` is None for no device that we know; `doubt`: what
    could not be found out of it."""

    subject: Subject
    node_key: Key | None
    doubt: str = ""


class Explaining:
    """Explains decisions of this node."""

    def __init__(self, house: House) -> None:
        self._house = house

    # ---- who --------------------------------------------------------------------------------

    def asker(self, who: str) -> Asker:
        """What a name or key stands for.

        Raises:
            NotFound, InvalidInput: nobody is called so, or nobody can be.
        """
        if who == ANY:
            return Asker(Subject("ed25519:(anybody)", frozenset({ANY, PAIRED})), None)
        if who.startswith("@"):
            return self._member(who)
        if who.startswith("ed25519:"):
            return self._by_key(parse_key(who))
        address = parse_address(who)
        house, node_key = self._house, self._house.identity.node.key
        if address.node == house.name:
            if address.context is None:
                return Asker(_node(house, house.name, node_key, is_own=True), node_key)
            key = house.contexts.get(address.context).key
            return Asker(
                own_subject(house.name, node_key, address.context, key, house.groups), node_key
            )
        peer = house.trust.by_name(address.node)
        if address.context is None:
            is_own = peer.relation == "own"
            return Asker(_node(house, peer.name, peer.node_key, is_own=is_own), peer.node_key)
        entry = peer.context(address.context)
        key = Key(entry.key) if entry else peer.node_key
        doubt = "" if entry else f"{peer.name} has shown no context {address.context}"
        subject = peer_subject(peer, address.context, key, house.groups)
        return Asker(subject, peer.node_key, doubt)

    def _member(self, group: str) -> Asker:
        if group not in (OWNER, PAIRED) and (mistake := group_mistake(group)):
            raise InvalidInput(mistake, hint="orvalho group ls")
        names = frozenset({ANY, PAIRED, group})
        return Asker(Subject(f"ed25519:(one of {group})", names), None)

    def _by_key(self, key: Key) -> Asker:
        house = self._house
        if key == house.identity.node.key:
            return Asker(_node(house, house.name, key, is_own=True), key)
        for context in house.contexts.list():
            if context.key == key:
                return self.asker(f"{context.name}@{house.name}")
        for peer in house.trust.peers():
            if peer.node_key == key:
                return self.asker(peer.name)
            for entry in peer.contexts:
                if entry.key == key:
                    return self.asker(f"{entry.name}@{peer.name}")
        names = {ANY, key_text(key), *(f"@{each}" for each in house.groups.groups_of(key))}
        return Asker(
            Subject(key_text(key), frozenset(names)), None, "no device that is paired has this key"
        )

    def chain(self, asker: Asker) -> list[why.Link]:
        """Sender, path, keys and groups, as far as they are known without a run."""
        house, subject = self._house, asker.subject
        known = "" if "(" in subject.key else f"  {subject.key}"
        links = [why.Link(name="sender", text=f"{subject.spoken}{known}")]
        if asker.doubt:
            links.append(why.Link(name="sender", text=asker.doubt))
        if asker.node_key is not None:
            links += self.keys(asker.node_key, subject)
        groups = sorted(each for each in house.policy.rules.words(subject) if each[0] == "@")
        links.append(why.Link(name="groups", text=", ".join(groups) or "none"))
        return links

    def keys(self, node_key: Key, subject: Subject) -> list[why.Link]:
        """The path to a node, and who vouches for its keys."""
        house = self._house
        peer = house.trust.by_key(node_key)
        if node_key == house.identity.node.key:
            owner, path, node = house.identity.owner.key, "within this node", house.name
            whose = "you"
        elif peer is None:
            return [why.Link(name="path", text="a node that is no peer any more")]
        else:
            owner, path, node = peer.owner_key, path_to(house, peer), peer.name
            whose = "you" if peer.relation == "own" else "a guest"
        steps = [
            f"owner {_short(key_text(owner))} ({whose})",
            f"{node} {_short(key_text(node_key))}",
        ]
        if subject.key != key_text(node_key):
            steps.append(f"{subject.spoken} {_short(subject.key)}")
        return [
            why.Link(name="path", text=path),
            why.Link(name="keys", text=" -> ".join(steps), holds=True),
        ]

    # ---- why --------------------------------------------------------------------------------

    async def asked(self, ask: why.WhyAsk) -> why.WhyAsked:
        """Without a run: what the rules, or a draft of them, say now.

        Raises:
            InvalidInput: the draft has mistakes, all of them in `detail`; or no such action.
            NotFound: no such sender or context.
        """
        house = self._house
        action, context, object_ = read_question(ask.who, ask.do, ask.on)
        asker = self.asker(ask.who)
        house.contexts.get(context)
        now = await self._imagined(ask)
        if now.rules is None or now.engine is None:
            lines = tuple(map(str, now.problems))
            raise InvalidInput(
                f"{ask.draft_name or 'the policy'} cannot be used: {lines[0] if lines else ''}",
                where=lines[0].partition(": ")[0] if lines else None,
                detail="\n".join(lines),
                hint="orvalho policy check" if ask.draft is None else None,
            )
        request = AccessRequest(asker.subject, context, action, object_)
        decision = now.engine.decide(request)
        explained = await to_thread.run_sync(self.explained, request, decision, now.rules)
        if not decision.allowed:
            explained = _with_edit(explained, await self._edit(request, now))
        chain = self.chain(asker)
        if await to_thread.run_sync(house.policy.has_own_model):
            chain.append(why.Link(name="model", text=_OWN_MODEL))
        if decision.allowed and house.broker.is_asked(action):
            chain.append(why.Link(name="broker", text="is asked next, at the time of the call"))
        return why.WhyAsked(
            who=ask.who,
            context=context,
            allowed=decision.allowed,
            chain=tuple(chain),
            decision=explained,
            draft=ask.draft_name if ask.draft is not None else None,
        )

    async def _imagined(self, ask: why.WhyAsk) -> Imagined:
        book = self._house.policy
        texts = dict(await to_thread.run_sync(book.texts))
        if ask.draft is not None:
            texts[f"policy/{ask.draft_name or 'draft.csv'}"] = ask.draft.encode()
        return await to_thread.run_sync(book.imagine, sorted(texts.items()))

    def explained(
        self, request: AccessRequest, decision: Decision, rules: RuleSet
    ) -> why.Explained:
        """One decision, with the rules that were tried on its way."""
        tried = trail(rules, request, self._house.policy.now())
        shown = closest(tried)
        return why.Explained(
            action=request.action,
            object=request.object,
            allowed=decision.allowed,
            by="rule" if decision.rule else "default",
            reason=sentence(request, decision),
            rule=decision.rule.where if decision.rule else None,
            text=decision.rule.text if decision.rule else None,
            tried=tuple(map(_tried, shown)),
            left_out=len(tried) - len(shown),
            unmet=decision.unmet.reason if decision.unmet else None,
        )

    async def _edit(self, request: AccessRequest, now: Imagined) -> why.Edit | None:
        book = self._house.policy
        names = [context.name for context in self._house.contexts.list()]
        found = await to_thread.run_sync(smallest_edit, request, now, book.imagine, names)
        return _edit(found) if found else None

    # ---- of a run ---------------------------------------------------------------------------

    async def of_entries(
        self, entries: Iterable[Entry], capabilities: Sequence[str], asker: Asker | None
    ) -> tuple[why.Explained, ...]:
        """The decisions of a run, each once, in the order they first fell. `asker` sent the run, if
        it is still known; `capabilities` are those of its header."""
        house = self._house
        now: Imagined | None = None
        edits = 0
        found: dict[tuple[str, ...], why.Explained] = {}
        for entry in entries:
            key = _key(entry)
            if (known := found.get(key)) is not None:
                found[key] = _again(known)
                continue
            explained = _recorded(entry, capabilities)
            request = self._request(entry, asker)
            if request is not None and entry.cause in (None, "broker"):
                if len(found) < _MOST_TRAILS:
                    explained = await to_thread.run_sync(self._tried_now, explained, entry, request)
                if not entry.allowed and entry.cause is None and edits < _MOST_EDITS:
                    edits += 1
                    if now is None:
                        texts = await to_thread.run_sync(house.policy.texts)
                        now = await to_thread.run_sync(house.policy.imagine, texts)
                    explained = _with_edit(explained, await self._edit(request, now))
            found[key] = explained
        return tuple(found.values())

    async def after_header(
        self, explained: why.Explained, entries: Sequence[Entry]
    ) -> why.Edit | str | None:
        """What the rules would take besides, once the header declared it; None where they allow
        it, or in words why they would not."""
        same = (e for e in entries if (e.action, e.object) == (explained.action, explained.object))
        entry = next(same, None)
        request = self._request(entry, None) if entry else None
        if request is None:
            return None
        decision = self._house.policy.peek(request)
        if decision.allowed:
            return None
        texts = await to_thread.run_sync(self._house.policy.texts)
        now = await to_thread.run_sync(self._house.policy.imagine, texts)
        return await self._edit(request, now) or sentence(request, decision)

    def _request(self, entry: Entry, asker: Asker | None) -> AccessRequest | None:
        try:
            is_sender = asker is not None and asker.subject.spoken == entry.actor
            whom = asker if is_sender and asker else self.asker(entry.actor)
        except OrvalhoError:
            return None  # it is no peer any more
        return AccessRequest(whom.subject, entry.context, entry.action, entry.object)

    def _tried_now(
        self, explained: why.Explained, entry: Entry, request: AccessRequest
    ) -> why.Explained:
        policy = self._house.policy
        decision = policy.peek(request)
        tried = trail(policy.rules, request, policy.now())
        shown = closest(tried)
        by = decision.rule.where if decision.rule else None
        changed = None
        allowed_then = entry.allowed or entry.cause == "broker"
        if decision.allowed != allowed_then:
            said = "allowed" if decision.allowed else "refused"
            changed = f"the rules have changed since: now it is {said} by {by or 'no rule'}"
        return _replaced(
            explained,
            tried=tuple(map(_tried, shown)),
            left_out=len(tried) - len(shown),
            changed=changed,
        )


def covering(capabilities: Sequence[str], side: str, action: str, object_: str) -> str | None:
    """The line of a header that covers a call."""
    for text in capabilities:
        capability = parse_capability(text)
        if capability.covers(side, action, object_) or text == f"{side}.{action}:{object_}":
            return text
    return None


def _node(house: House, name: str, node_key: Key, *, is_own: bool) -> Subject:
    names = {ANY, PAIRED, name, key_text(node_key)}
    names |= {f"@{group}" for group in house.groups.groups_of(node_key)}
    return Subject(key_text(node_key), frozenset(names | ({OWNER} if is_own else set())))


def _short(key: str) -> str:
    return key if "(" in key else f"{key[:20]}..."


def _tried(each: Tried) -> why.RuleTried:
    rule = each.rule
    return why.RuleTried(
        where=rule.where, text=rule.text, effect=rule.effect, differs=tuple(each.differs)
    )


def _edit(found: mend.Edit) -> why.Edit:
    return why.Edit(
        kind="rule",
        changes=tuple(
            why.LineChange(
                where=f"{each.file}:{each.line}" if each.line else each.file,
                old=each.old,
                new=each.new,
            )
            for each in found.changes
        ),
        is_tried=True,
        opens=found.opens,
    )


def _replaced(explained: why.Explained, **fields: object) -> why.Explained:
    return msgspec.structs.replace(explained, **fields)


def _with_edit(explained: why.Explained, edit: why.Edit | None) -> why.Explained:
    return _replaced(explained, edit=edit)


def _again(explained: why.Explained) -> why.Explained:
    return _replaced(explained, times=explained.times + 1)


def _key(entry: Entry) -> tuple[str, ...]:
    parts = (entry.context, entry.action, entry.object, entry.allowed, entry.rule, entry.cause)
    return tuple(map(str, parts))


def _recorded(entry: Entry, capabilities: Sequence[str]) -> why.Explained:
    side = "caller" if (entry.call or "").partition(" ")[2].startswith("caller.") else "target"
    is_call = entry.action.startswith(("fs.", "kv.", "node."))
    by = entry.cause or ("rule" if entry.rule else "default")
    if entry.cause is not None:
        reason = entry.text
    elif entry.rule is not None:
        reason = f"{entry.rule} {'allows' if entry.allowed else 'denies'} it"
    else:
        reason = entry.text or "no rule allows it"
    return why.Explained(
        action=entry.action,
        object=entry.object,
        allowed=entry.allowed,
        by=by,
        reason=reason,
        rule=entry.rule,
        text=entry.rule_text,
        call=entry.call,
        unmet=entry.unmet,
        capability=covering(capabilities, side, entry.action, entry.object) if is_call else None,
    )
