"""A peer has mounted a tree of ours: each question is decided like a script's call, then answered.

There is no list of what is exported: the policy is it. What a context of the asker may do here with
a script, it may do through its mount, and no more.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

import msgspec

from orvalho.contexts.context import Context
from orvalho.contexts.filesystem import FileAction, VirtualPath
from orvalho.contexts.identity import Key
from orvalho.contexts.mounted import Mounted
from orvalho.contexts.mounts import tree_words as words
from orvalho.contexts.tree_answers import TreeAnswers
from orvalho.contexts.trust import Peer
from orvalho.daemon.broker import Question, refused
from orvalho.daemon.house import House
from orvalho.daemon.subjects import peer_subject
from orvalho.daemon.wire import decode
from orvalho.errors import Denied, Untrusted
from orvalho.policies.access import AccessRequest, Decision, Subject
from orvalho.policies.audit import decided
from orvalho.policies.explain import refusal

# Askers whose half-written files are kept in memory.
_MOST_ASKERS: Final = 16


class TreeHandler:
    """Answers `tree.ask`. The asker is a linked peer, which vouches for its contexts."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._answers: OrderedDict[Key, TreeAnswers] = OrderedDict()

    async def answer(self, sender: Key, body: bytes) -> bytes:
        """Raises:
        Denied: the policy does not let this context do that.
        Untrusted: the asker or its context is not known.
        OrvalhoError: what the tree raises.
        """
        asked = decode(body, words.Asked)
        peer = self._house.trust.by_key(sender)
        if peer is None:
            raise Untrusted("this node does not know the sender")
        entry = peer.context(asked.caller)
        if entry is None:
            name = asked.caller[:64]
            raise Untrusted(f"{peer.name} has not shown a context {name!a}", where=peer.name)
        subject = peer_subject(peer, entry.name, Key(entry.key), self._house.groups)
        context = self._house.contexts.get(asked.context)
        question = asked.question
        # One line of the audit for a file, not one for each of its parts.
        is_noted = isinstance(question, (words.Make, words.Remove)) or (
            isinstance(question, (words.ReadPart, words.WritePart)) and question.offset == 0
        )

        def check(action: FileAction, place: VirtualPath) -> None:
            self._check(peer, subject, context, action, place, is_noted=is_noted)

        answers, files = self._answers_to(sender), context.files(check)

        async def call() -> bytes:
            return await answers.answer(files, question)

        return await self._house.broker.within("tree.ask", call)

    def _answers_to(self, sender: Key) -> TreeAnswers:
        answers = self._answers.setdefault(sender, TreeAnswers())
        self._answers.move_to_end(sender)
        if len(self._answers) > _MOST_ASKERS:
            self._answers.popitem(last=False)
        return answers

    def _check(
        self,
        peer: Peer,
        subject: Subject,
        context: Context,
        action: FileAction,
        place: VirtualPath,
        *,
        is_noted: bool,
    ) -> None:
        house = self._house
        asked = AccessRequest(subject, context.name, action, place)
        decision = house.policy.decide(asked)
        if is_noted or not decision.allowed:
            house.audit.note(decided(asked, decision, at=time.time(), text="by a mount"))
        explain_to = house.settings.config.policy.explain_to
        explains = explain_to == "all" or (explain_to == "own" and peer.relation == "own")
        if not decision.allowed:
            if explains:
                raise refusal(asked, decision)
            raise Denied(f"{action} {place} is not allowed", where=place)
        said = house.broker.verdict(Question(asked, decision.rule))
        if said is not None and not said.allowed:
            entry = decided(asked, Decision(allowed=False), at=time.time(), text=said.text)
            house.audit.note(msgspec.structs.replace(entry, cause="broker"))
            raise refused(asked, said, explains=explains)
        resolved = context.mounts.resolve(place)
        if resolved is not None and isinstance(resolved[0], Mounted) and resolved[0].is_remote:
            # Else two mounts of each other would ask in a circle, and one node speak for another.
            raise Denied(f"{place} is itself another device's tree: mount that one", where=place)
