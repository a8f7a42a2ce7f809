"""The part of the local API that explains: why something was allowed or refused, or would be."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class RuleTried(Message, frozen=True, kw_only=True):
    """One rule: `file:line`, its text and effect, and the columns in which it says something else
    (subject, context, action, object; code: it does not name /lib). None: it matches."""

    where: str
    text: str
    effect: str
    differs: tuple[str, ...] = ()


class LineChange(Message, frozen=True, kw_only=True):
    """One line of a file: `where` is `file:line`, or the file alone for a line that is added;
    `old` goes, `new` comes."""

    where: str
    old: str = ""
    new: tuple[str, ...] = ()


class Edit(Message, frozen=True, kw_only=True):
    """The smallest edit that would allow it. `kind`: rule, header, quota or send; `is_tried`: it
    was evaluated in memory, and allows it; `opens`: what else it lets through; `then`: what still
    stands in the way after it."""

    kind: str
    changes: tuple[LineChange, ...]
    is_tried: bool = False
    opens: str = ""
    then: str = ""


class Link(Message, frozen=True, kw_only=True):
    """One link of the chain, in order. `name`: sender, path, signature, certificate, denied, keys,
    groups, quota, held (by which line, since when), ended (what came of that), model or broker;
    `holds`: whether it let the request through; None where that is not its part."""

    name: str
    text: str
    holds: bool | None = None


class WhyAsk(Message, frozen=True, kw_only=True, tag=tag):
    """Would this be allowed? `who` is a name as in a policy line (`alice@laptop`, a node, a key),
    `do` an action such as `target.fs.write`, `on` what it is done to: `peer:/x`, in our context
    `peer`. `draft`: the text of a policy file that takes the place of the one of the name
    `draft_name`. -> WhyAsked"""

    who: str
    do: str
    on: str
    draft: str | None = None
    draft_name: str | None = None


class Explained(Message, frozen=True, kw_only=True):
    """One decision and how it came about. `by`: rule, default (no rule speaks), header, narrowed
    (by its sender), dropped (by the script), broker, path, disabled. `tried` are rules in the order
    of the files, those that come closest where there are many, and `left_out` more. `call`: the
    host call, `3 target.fs.write`; `capability`: the line of the header that covers it; `unmet`:
    the condition on which it hung, and what was so."""

    action: str
    object: str
    allowed: bool
    by: str
    reason: str
    rule: str | None = None
    text: str | None = None
    times: int = 1
    call: str | None = None
    capability: str | None = None
    tried: tuple[RuleTried, ...] = ()
    left_out: int = 0
    changed: str | None = None
    unmet: str | None = None
    edit: Edit | None = None


class WhyAsked(Message, frozen=True, kw_only=True, tag=tag):
    who: str
    context: str
    allowed: bool
    chain: tuple[Link, ...]
    decision: Explained
    draft: str | None = None


Request = WhyAsk
Reply = WhyAsked
