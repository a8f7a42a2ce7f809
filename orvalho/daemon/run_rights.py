"""What narrows one run beside the rules: what its sender denied it, and what it has dropped.

Both only ever take away. A drop holds until the run's end, whoever calls: nothing gives it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from orvalho.errors import Denied, InvalidInput, LimitExceeded
from orvalho.policies.access import ACTIONS, object_mistake
from orvalho.policies.capability import Capability, Grants, Side
from orvalho.policies.globs import Glob, compile_glob, glob_mistake
from orvalho.runtime.bridge import HostCall

Cause = Literal["narrowed", "dropped"]

_MOST_DROPPED: Final = 256
_ACTIONS: Final = tuple(each for each in ACTIONS if each.startswith(("fs.", "kv.", "node.")))
# What a call into the caller's tree does there; its own side decides by path.
_CALLER_CALLS: Final = {
    "fs.read": ("fs.read",),
    "fs.readText": ("fs.read",),
    "fs.list": ("fs.read",),
    "fs.stat": ("fs.read",),
    "fs.exists": ("fs.read",),
    "fs.write": ("fs.write",),
    "fs.mkdir": ("fs.write",),
    "fs.remove": ("fs.remove",),
    "fs.move": ("fs.read", "fs.remove", "fs.write"),
}


@dataclass(frozen=True, slots=True)
class _Dropped:
    """`fs`, `fs.write` or `fs.write:/a/**`, on one side."""

    side: Side
    action: str
    glob: Glob | None

    def covers(self, side: Side, action: str, object_: str) -> bool:
        if side != self.side or self.action not in (action, action.partition(".")[0]):
            return False
        return self.glob is None or reaches(self.glob, object_)


class RunRights:
    """The rights of one run, as far as `denied` and what it drops leave them. `grants` is what its
    header declares."""

    def __init__(self, grants: Grants, denied: Iterable[Capability] = ()) -> None:
        self._grants = grants
        self._denied = tuple(denied)
        self._dropped: list[_Dropped] = []

    def refusal(self, side: Side, action: str, object_: str) -> tuple[Cause, Denied] | None:
        """Why this run may not do it, whatever the rules say."""
        for each in self._dropped:
            if each.covers(side, action, object_):
                return "dropped", Denied(
                    f"{side}.{action} {object_}: dropped by the script itself", where=object_
                )
        for denied in self._denied:
            if (denied.side, denied.action) == (side, action) and reaches(denied.glob, object_):
                return "narrowed", Denied(
                    f"{side}.{action} {object_}: its sender denied it to this script",
                    where=object_,
                    rule=f"--deny {denied}",
                    hint=f"send it again without --deny {denied}",
                )
        return None

    def refusal_of_call(self, name: str) -> Denied | None:
        """Why a call such as `fs.write` into the caller's tree is not passed on. What was dropped
        for some paths alone is decided by nobody on this side, so the whole action is gone."""
        for action in _CALLER_CALLS.get(name, ()):
            for each in self._dropped:
                if each.side == "caller" and each.action in (action, action.partition(".")[0]):
                    return Denied(f"caller.{action}: dropped by the script itself")
        return None

    def drop(self, text: str) -> None:
        """Raises:
        InvalidInput: it names no right.
        LimitExceeded: the run has dropped too much one by one.
        """
        if len(self._dropped) >= _MOST_DROPPED:
            raise LimitExceeded(f"rights: a run drops at most {_MOST_DROPPED}, one by one")
        self._dropped.append(_parse(text))

    def list(self) -> list[str]:
        """What the header declares and nothing has taken away as a whole."""
        return [str(each) for each in self._grants.granted if not self._is_gone(each)]

    def _is_gone(self, capability: Capability) -> bool:
        side, action, object_ = capability.side, capability.action, capability.object
        globs = [each.glob for each in self._denied if (each.side, each.action) == (side, action)]
        is_denied = any(glob.text == object_ or glob.matches(object_) for glob in globs)
        return is_denied or any(
            (each.glob is None or each.glob.text == object_ or each.glob.matches(object_))
            and each.side == side
            and each.action in (action, action.partition(".")[0])
            for each in self._dropped
        )

    def calls(self) -> dict[str, HostCall]:
        """`target.rights.*`: a script narrows itself."""

        async def drop(argument: str) -> str:
            for text in _texts(argument):
                self.drop(text)
            return "null"

        async def tell(_argument: str) -> str:
            return msgspec.json.encode(self.list()).decode()

        return {"target.rights.drop": drop, "target.rights.list": tell}


def reaches(glob: Glob, object_: str) -> bool:
    """Whether a glob that takes away speaks of an object. One that stands for many, as that of a
    list does, is spoken of where the two share anything."""
    if glob.matches(object_):
        return True
    if "*" not in object_:
        return False
    mine, theirs = glob.text.partition("*")[0], object_.partition("*")[0]
    return mine.startswith(theirs) or theirs.startswith(mine)


def _texts(argument: str) -> list[str]:
    try:
        texts = msgspec.json.decode(argument, type=list[str])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"rights.drop takes words such as fs.write: {error}") from error
    if not texts:
        raise InvalidInput("rights.drop takes words such as fs.write")
    return texts


def _parse(text: str) -> _Dropped:
    words, colon, object_ = text.partition(":")
    side: Side = "target"
    if words.startswith(("target.", "caller.")):
        first, _, words = words.partition(".")
        side = "caller" if first == "caller" else "target"
    families = {each.partition(".")[0] for each in _ACTIONS}
    if words not in _ACTIONS and words not in families:
        raise InvalidInput(
            f"{words[:40]!a} is no right to drop",
            hint=f"one of {', '.join((*sorted(families), *_ACTIONS))}",
        )
    if not colon:
        return _Dropped(side, words, None)
    # All actions of a family have objects of one shape.
    mistake = glob_mistake(object_) or object_mistake(
        words if words in _ACTIONS else f"{words}.read", object_
    )
    if mistake or not object_:
        raise InvalidInput(f"{text[:200]!a}: {mistake or 'its object is missing'}")
    return _Dropped(side, words, compile_glob(object_))
