"""What beside the rules let a run through or ended it: its keys, its quotas, its header."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import msgspec

from orvalho.contexts.identity import Key, check_certificate, key_text, parse_key
from orvalho.control import why
from orvalho.daemon.holding import HELD, WAITS
from orvalho.daemon.house import House
from orvalho.daemon.limits import allowance
from orvalho.errors import InvalidInput, Untrusted
from orvalho.policies.audit import Entry
from orvalho.policies.quota import Limits, format_duration, format_size
from orvalho.policies.quotas import LEAST_MEMORY_BYTES, TOTAL, Account, State, Terms
from orvalho.scripts.dsse import open_sealed
from orvalho.scripts.manifest import read_manifest
from orvalho.scripts.runs import Run
from orvalho.scripts.script import Source, make_script
from orvalho.scripts.signing import MAX_ENVELOPE_BYTES, PAYLOAD_TYPES, Call

_QUOTA: Final = re.compile(r"quota (\w+) exceeded \((?:group )?([a-z0-9-]+)\)")
_UNDECLARED: Final = re.compile(
    r"the script did not say that it needs (?P<side>\w+)\.(?P<action>[\w.]+):(?P<object>.*)",
    re.DOTALL,
)
_NEEDS: Final = re.compile(r"^(?P<before>\W*needs\s*=\s*\[)(?P<rest>.*\].*)$")


def read_call(envelope: bytes) -> tuple[Call, Key]:
    """The signed call of a run that was kept, and who signed it.

    Raises:
        Untrusted: the signature does not hold.
    """
    payload, signed_by = open_sealed(envelope, *PAYLOAD_TYPES, max_bytes=MAX_ENVELOPE_BYTES)
    return msgspec.json.decode(payload, type=Call), signed_by


def signature_links(call: Call, signed_by: Key) -> list[why.Link]:
    """That the call is its context's, and the context its node's."""
    links = [
        why.Link(
            name="signature",
            text="the caller's signature over script, parameters, target and times holds",
            holds=True,
        )
    ]
    node, context = call.caller.node, call.caller.context
    try:
        node_key = parse_key(call.caller.node_key)
        certificate = check_certificate(call.caller.certificate, node_key, "context")
        holds = (Key(certificate.key), certificate.name) == (signed_by, context)
        text = f"{node} certifies {key_text(signed_by)} as its context {context}"
    except (Untrusted, InvalidInput) as error:
        holds, text = False, error.message
    links.append(why.Link(name="certificate", text=text, holds=holds))
    if call.denies:
        links.append(why.Link(name="denied", text=f"by its sender: {', '.join(call.denies)}"))
    return links


async def quota_links(house: House, groups: Sequence[str], run: Run) -> list[why.Link]:
    """Each quota that counts for a sender in these groups, and its use now."""
    found = over_quota(run)
    links = []
    for state in await house.quotas.states():
        if state.terms.name != TOTAL and state.terms.name not in groups:
            continue
        is_over = found is not None and found[1] == state.terms.name
        text = f"{state.terms.spoken}: {'; '.join(_used(state)) or 'no limit'}"
        if is_over and found:
            text += f"; {found[0]} was used up"
        links.append(why.Link(name="quota", text=text, holds=not is_over))
    return links


def over_quota(run: Run) -> tuple[str, str] | None:
    """What of which quota ended a run: (`cpu`, `guests`)."""
    found = _QUOTA.match(run.error.message) if run.error else None
    return (found[1], found[2]) if found else None


async def quota_edit(house: House, run: Run) -> why.Edit | None:
    """The setting to raise, tried against the use of now."""
    over = over_quota(run)
    if over is None:
        return None
    what, name = over
    state = next((each for each in await house.quotas.states() if each.terms.name == name), None)
    key = f"quota.total.{what}" if name == TOTAL else f"quota.groups.{name}.{what}"
    if state is None:
        return None
    old, new, terms = _raised(state, what)
    if old == new:
        return None
    change = why.LineChange(where="config.toml", old=f"{key} = {old}", new=(f"{key} = {new}",))
    asked = allowance(house.settings.config.limits).usual
    return why.Edit(kind="quota", changes=(change,), is_tried=_has_room(state, terms, asked))


def held_links(entries: Sequence[Entry]) -> list[why.Link]:
    """The line that held a run for the owner to look at, and what came of it, each with when."""
    links = []
    for entry in sorted((each for each in entries if each.action == HELD), key=lambda e: e.at):
        at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        said = entry.text.partition(": ")[2]
        if said.startswith(WAITS):
            rule = f"{entry.rule}  {entry.rule_text or ''}".rstrip()
            links.append(why.Link(name="held", text=f"{at}, by {rule}"))
        else:
            links.append(why.Link(name="ended", text=f"{at}, {said}"))
    return links


def told_refusal(run: Run) -> tuple[why.Explained, ...]:
    """Where a run of ours was refused for what its header lacks: its target says that in the
    error, and in no receipt."""
    found = _UNDECLARED.fullmatch(run.error.message) if run.error else None
    if found is None or found["side"] != "target":
        return ()
    return (
        why.Explained(
            action=found["action"],
            object=found["object"],
            allowed=False,
            by="header",
            reason=run.error.message if run.error else "",
        ),
    )


def is_told(run: Run, explained: why.Explained) -> bool:
    """Whether it is the target that missed it in the header."""
    return any(
        (each.action, each.object) == (explained.action, explained.object)
        for each in told_refusal(run)
    )


def header_edit(run: Run, source: Source, capability: str) -> why.Edit:
    """The line of the header that lacks. Where it stands on one line, it is read again with it."""
    word = f'"{capability}"'
    if isinstance(source, str):
        lines = source.split("\n")
        for at, line in enumerate(lines):
            found = _NEEDS.match(line)
            if found is None:
                continue
            more = "" if found["rest"].lstrip().startswith("]") else ", "
            new = f"{found['before']}{word}{more}{found['rest']}"
            text = "\n".join((*lines[:at], new, *lines[at + 1 :]))
            change = why.LineChange(where=f"{run.filename}:{at + 1}", old=line, new=(new,))
            return why.Edit(kind="header", changes=(change,), is_tried=_declares(run, text, word))
        block = ("// /// orvalho", f"// needs = [{word}]", "// ///")
        if run.filename.endswith(".star"):
            block = ("# /// orvalho", f"# needs = [{word}]", "# ///")
        text = "\n".join((*block, source))
        change = why.LineChange(where=f"{run.filename}:1", new=block)
        return why.Edit(kind="header", changes=(change,), is_tried=_declares(run, text, word))
    change = why.LineChange(where=f"{run.filename}.toml", new=(f"needs = [{word}]",))
    return why.Edit(kind="header", changes=(change,))


def with_rules(edit: why.Edit, rules: why.Edit | str | None) -> why.Edit:
    """An edit of the header, with that of the rules which it takes besides, if it does."""
    if rules is None:
        return edit
    if isinstance(rules, str):
        return msgspec.structs.replace(edit, then=rules, is_tried=False)
    return why.Edit(
        kind=edit.kind,
        changes=(*edit.changes, *rules.changes),
        is_tried=edit.is_tried and rules.is_tried,
        opens=rules.opens,
    )


def send_edit(entry: Entry, call: Call) -> why.Edit:
    """The word of its sender that stands in the way."""
    stands = next((each for each in call.denies if f".{entry.action}:" in each), "")
    change = why.LineChange(where="orvalho script send", old=f"--deny {stands}")
    return why.Edit(kind="send", changes=(change,))


def _declares(run: Run, text: str, word: str) -> bool:
    try:
        manifest = read_manifest(make_script(run.filename, text))
    except InvalidInput:
        return False
    return word.strip('"') in map(str, manifest.needs)


def _used(state: State) -> list[str]:
    terms, per = state.terms, f"per {format_duration(state.terms.window_s)}"
    used = []
    if terms.cpu_ms is not None:
        of = format_duration(terms.cpu_ms / 1000)
        used.append(f"cpu {format_duration(state.cpu_ms / 1000)} of {of} {per}")
    if terms.network_bytes is not None:
        of = format_size(terms.network_bytes)
        used.append(f"network {format_size(state.network_bytes)} of {of} {per}")
    if terms.memory_bytes is not None:
        used.append(
            f"memory {format_size(state.memory_bytes)} of {format_size(terms.memory_bytes)}"
        )
    if terms.runs_at_once is not None:
        used.append(f"runs at once {state.running} of {terms.runs_at_once}")
    if terms.cores is not None:
        used.append(f"cores {state.running} of {terms.cores}")
    return used


def _raised(state: State, what: str) -> tuple[str, str, Terms]:
    """The old and the new value of one limit, as a setting has them, and the terms with it: twice
    as much, or what is used and the old limit once more where that is greater."""
    terms = state.terms
    if what == "cpu" and terms.cpu_ms is not None:
        most = max(terms.cpu_ms, state.cpu_ms) + terms.cpu_ms
        old, new = (f'"{format_duration(each / 1000)}"' for each in (terms.cpu_ms, most))
        return old, new, replace(terms, cpu_ms=most)
    if what == "network" and terms.network_bytes is not None:
        most = max(terms.network_bytes, state.network_bytes) + terms.network_bytes
        old, new = (f'"{format_size(each)}"' for each in (terms.network_bytes, most))
        return old, new, replace(terms, network_bytes=most)
    if what == "memory" and terms.memory_bytes is not None:
        most = max(terms.memory_bytes, state.memory_bytes) + LEAST_MEMORY_BYTES
        old, new = (f'"{format_size(each)}"' for each in (terms.memory_bytes, most))
        return old, new, replace(terms, memory_bytes=most)
    if what in ("runs_at_once", "cores"):
        old_count = (terms.cores if what == "cores" else terms.runs_at_once) or 0
        count = max(old_count, state.running) + 1
        is_cores = what == "cores"
        more = replace(terms, cores=count) if is_cores else replace(terms, runs_at_once=count)
        return str(old_count), str(count), more
    return "", "", terms


def _has_room(state: State, terms: Terms, asked: Limits) -> bool:
    account = Account(terms)
    account.live_cpu_ms, account.live_network_bytes = state.cpu_ms, state.network_bytes
    account.memory_bytes, account.running = state.memory_bytes, state.running
    return account.lacks(asked) is None
