"""The local API's words for asking many nodes at once with a program. See `messages`."""

from __future__ import annotations

import msgspec

from orvalho.control.message import Message, tag

# ---- requests -----------------------------------------------------------------------------


class Ask(Message, frozen=True, kw_only=True, tag=tag):
    """Run a program on every node that `to` stands for, and tell what each of them answered.

    The program is given as in ScriptSend. `hops`: 1 asks only nodes that were paired here, 2 also
    those that they introduced. `here`: ask this node too. What has not answered `timeout_s` after
    the start is told to stop, and is silent. -> AskPlaced, then AskAnswer, ... as they come
    """

    to: str
    filename: str
    source: str
    module: bytes = b""
    needs: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    context: str | None = None
    modules: dict[str, str] = msgspec.field(default_factory=dict)
    timeout_s: float = 5.0
    hops: int = 2
    here: bool = False


# ---- replies ------------------------------------------------------------------------------


class AskChoice(Message, frozen=True, kw_only=True):
    """`hops`: 0 is this node, 1 one that was paired here, more one that another introduced."""

    to: str
    node: str
    hops: int
    why: str


class AskPlaced(Message, frozen=True, kw_only=True, tag=tag):
    """Who is asked, and who is `left_out` for its hops. `here`: our context that asks."""

    name: str
    here: str
    choices: tuple[AskChoice, ...]
    left_out: tuple[AskChoice, ...] = ()


class AskError(Message, frozen=True, kw_only=True):
    """An error part by part, as in `Failed`."""

    code: str
    message: str
    where: str | None = None
    rule: str | None = None
    hint: str | None = None
    peer: str | None = None
    detail: str | None = None


class AskAnswer(Message, frozen=True, kw_only=True, tag=tag):
    """What one node said. `state`: an outcome of RunEnded, `silent`, or `not sent`. `to` names the
    context that was asked at last. `result` is JSON of at most 256 kB that a decoder reads."""

    to: str
    node: str
    hops: int
    state: str
    run: str | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    result_bytes: bytes | None = None
    error: AskError | None = None
    took_ms: int = 0


Request = Ask
Reply = AskPlaced | AskAnswer
