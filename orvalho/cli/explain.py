"""The answer to `why`, in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator

from orvalho.cli.output import many
from orvalho.control.messages import WhyReply
from orvalho.control.why import Edit, Explained, Link, RuleTried, WhyAsked

_HOLDS = {None: "", True: "  ok", False: "  NO"}
# Whose no it was, where it was no rule's.
_BY = {
    "default": "no rule speaks for it",
    "header": "the script's header does not declare it",
    "narrowed": "its sender denied it to the script",
    "dropped": "the script itself dropped it",
    "broker": "the permission broker denied it",
    "path": "the path leads out of the tree",
    "disabled": "this context has it switched off",
}
_SHARED = {
    "decisions": "its target shares what it decided; the rules behind that stay there",
    "outcome": "its target shares no reasons with this device",
}


def explanation(reply: WhyReply, *, all_rules: bool = False) -> Iterator[str]:
    """The lines for a person: the run, its chain, then each decision."""
    state = reply.state
    yield f"{state.run}  {state.filename}  {state.outcome or state.state}"
    yield f"  caller      {state.caller}  {reply.caller_key}"
    yield f"  target      {state.target}"
    yield from _chain(reply.chain[1:])
    if reply.shared in _SHARED:
        yield f"  told        {_SHARED[reply.shared]}"
    for each in reply.explained:
        yield from _decision(each, all_rules=all_rules)
    if reply.edit is not None:
        yield from _edit(reply.edit, "  ")


def answer(reply: WhyAsked) -> Iterator[str]:
    """The lines for a question without a run."""
    draft = f"  with {reply.draft} in place" if reply.draft else ""
    yield f"{reply.who}  ->  {reply.context}{draft}"
    yield from _chain(reply.chain)
    yield from _decision(reply.decision, all_rules=True)


def _chain(links: tuple[Link, ...]) -> Iterator[str]:
    for link in links:
        yield f"  {link.name:<12}{link.text}{_HOLDS[link.holds]}"


def _decision(each: Explained, *, all_rules: bool) -> Iterator[str]:
    times = f"  ({many(each.times, 'time')})" if each.times > 1 else ""
    verdict = "allowed" if each.allowed else "refused"
    yield f"  {verdict}     {each.action} {each.object}{times}"
    if each.call:
        number, _, name = each.call.partition(" ")
        yield f"    call     {name}, call {number} of the run"
    if each.capability:
        yield f"    header   {each.capability}"
    if each.rule is not None:
        yield f"    rule     {each.rule}  {each.text or ''}".rstrip()
    if each.unmet is not None:
        yield f"    hangs    {each.unmet}"
    if each.by in _BY:
        yield f"    by       {_BY[each.by]}"
    if each.by in ("broker", "path", "disabled", "default") and each.reason:
        yield f"    reason   {each.reason}"
    is_short = each.allowed and not all_rules
    shown = [tried for tried in each.tried if not (is_short and tried.differs)]
    for tried in shown:
        yield f"    tried    {_tried(tried)}"
    left_out = len(each.tried) - len(shown) + each.left_out
    if left_out:
        yield f"    tried    {many(left_out, 'more rule')}, which did not match"
    if each.changed:
        yield f"    now      {each.changed}"
    if each.edit is not None:
        yield from _edit(each.edit, "    ")


def _tried(tried: RuleTried) -> str:
    said = f"not this {', '.join(tried.differs)}" if tried.differs else "MATCHES"
    return f"{tried.where}  {tried.text}  {said}"


def _edit(edit: Edit, margin: str) -> Iterator[str]:
    yield f"{margin}to allow{', tried in memory:' if edit.is_tried else ':'}"
    for change in edit.changes:
        if change.old:
            yield f"{margin}  -  {change.where}  {change.old}"
        for line in change.new:
            yield f"{margin}  +  {change.where}  {line}"
    if edit.opens:
        yield f"{margin}  mind  {edit.opens}"
    if edit.then:
        yield f"{margin}  then  {edit.then}"
