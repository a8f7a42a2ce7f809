"""What a script asks to touch, and what of it is granted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from orvalho.contexts.names import near_miss
from orvalho.errors import InvalidInput
from orvalho.policies.access import ACTIONS, AccessRequest, Decision, object_mistake
from orvalho.policies.explain import refusal
from orvalho.policies.globs import Glob, compile_glob

Side = Literal["target", "caller"]
_SIDES: Final[tuple[Side, ...]] = ("target", "caller")
MAX_CAPABILITIES: Final = 64

_ACTIONS: Final = tuple(action for action in ACTIONS if action.startswith(("fs.", "kv.", "node.")))
_WORDS: Final = tuple(
    f"{side}.{action}"
    for side in ("target", "caller")
    for action in _ACTIONS
    # A target learns nothing of its caller's machine, and reaches nothing through it.
    if side == "target" or not action.startswith("node.")
)


@dataclass(frozen=True, slots=True)
class Capability:
    """`target.fs.read:/photos/**`: an action on one side's files or keys, as far as a glob goes."""

    side: Side
    action: str
    glob: Glob

    @property
    def object(self) -> str:
        return self.glob.text

    def __str__(self) -> str:
        return f"{self.side}.{self.action}:{self.object}"

    def covers(self, side: str, action: str, object_: str) -> bool:
        return self.side == side and self.action == action and self.glob.matches(object_)


def parse_capability(text: str) -> Capability:
    """Raises:
    InvalidInput: it is not `side.action:object`, with a hint where it is nearly.
    """
    words, colon, object_ = text.partition(":")
    if not colon:
        raise InvalidInput(f'"{text}" is no capability: write one like target.fs.read:/photos/**')
    if words not in _WORDS:
        near = near_miss(words, _WORDS)
        raise InvalidInput(
            f'unknown capability "{words}"' + (f', did you mean "{near}"?' if near else ""),
            hint=f"one of {', '.join(_WORDS)}",
        )
    side, _, action = words.partition(".")
    mistake = object_mistake(action, object_) if object_ else "its object is missing"
    if mistake:
        raise InvalidInput(f'"{text}": {mistake}')
    glob = compile_glob(object_)
    return Capability("target" if side == "target" else "caller", action, glob)


@dataclass(frozen=True, slots=True)
class Grants:
    """What a run may try. Each call is put to the policy again: a grant covers what a script
    declared, and a rule may well forbid some of what its glob reaches."""

    granted: tuple[Capability, ...] = ()
    refused: tuple[Capability, ...] = ()

    def permits(self, side: str, action: str, object_: str) -> bool:
        """Whether the script declared this, and its declaration was not refused as a whole."""
        return any(capability.covers(side, action, object_) for capability in self.granted)


# The request that a capability stands for and the answer to it; None when the other side decides.
Decide = Callable[[Capability], tuple[AccessRequest, Decision] | None]


def grant(needs: Iterable[Capability], wants: Iterable[Capability], decide: Decide) -> Grants:
    """Ask about each capability, its glob as the object. What is wanted may be refused.

    Raises:
        Denied: a need is refused, by the rule or for the lack of one.
    """
    granted: list[Capability] = []
    refused: list[Capability] = []
    for need in needs:
        answer = decide(need)
        if answer and not answer[1].allowed:
            raise refusal(*answer)
        granted.append(need)
    for want in wants:
        answer = decide(want)
        (refused if answer and not answer[1].allowed else granted).append(want)
    return Grants(tuple(granted), tuple(refused))


def read_only(needs: Iterable[Capability], wants: Iterable[Capability]) -> tuple[Side, ...]:
    """The sides to whose trees a script with these neither writes nor removes anything."""
    changed = {each.side for each in (*needs, *wants) if each.action in ("fs.write", "fs.remove")}
    return tuple(side for side in _SIDES if side not in changed)
