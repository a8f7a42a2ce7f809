"""A run made again from its recording, here or where its file was carried to.

Nothing that it does reaches anything: its calls are answered from the recording, and it has no
others. Before that, all of it is held against the receipt that the node signed where it ran.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

from orvalho.contexts.identity import Key, key_text, parse_key
from orvalho.daemon.ending import Ending
from orvalho.daemon.house import House
from orvalho.daemon.limits import allowance
from orvalho.daemon.run_words import digest_of
from orvalho.errors import Denied, InvalidInput, ScriptFailed, Unavailable, Untrusted
from orvalho.policies.capability import read_only
from orvalho.policies.quota import Asked, narrow
from orvalho.runtime.engine import Modules
from orvalho.runtime.job import Ended, Job
from orvalho.runtime.recording import (
    Difference,
    Playback,
    Recording,
    decode_recording,
    shown,
)
from orvalho.scripts.messages import ScriptError
from orvalho.scripts.receipts import Receipt, open_receipt
from orvalho.scripts.signing import VerifiedScript, verify_script

_FORMAT: Final = 1
# What ends a run by how fast a device is, or by somebody's word: not at the same place again.
_STOPS: Final = ("wall", "cpu", "memory", "network")
_COUNTED: Final = ("output", "host_calls")
_RAN_THROUGH: Final = ("done", "planned", "rejected")


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """All that a replay needs. `node_key` signed the receipt; the source is `text`, or `module` of
    WebAssembly; `lines` are (level, text)."""

    format: int = _FORMAT
    node_key: str
    receipt: bytes
    envelope: bytes
    text: str | None = None
    module: bytes | None = None
    params: bytes
    modules: dict[str, str] = msgspec.field(default_factory=dict)
    recording: bytes
    result: bytes | None = None
    is_bytes: bool = False
    lines: tuple[tuple[str, str], ...] = ()
    error: ScriptError | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """A bundle of which all fits the receipt."""

    bundle: Bundle
    key: Key
    receipt: Receipt
    script: VerifiedScript
    recording: Recording


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a replay. `stopped`: see `control.replaying.Replayed`."""

    ended: Ended
    difference: Difference | None
    stopped: str | None


def encode_bundle(bundle: Bundle) -> bytes:
    return msgspec.msgpack.encode(bundle)


def decode_bundle(raw: bytes) -> Bundle:
    """Raises:
    InvalidInput: it is none, or one of a version that is not known here.
    """
    try:
        bundle = msgspec.msgpack.decode(raw, type=Bundle)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(
            f"this is no exported run: {error}", hint="orvalho replay --export RUN -o FILE"
        ) from error
    if bundle.format != _FORMAT:
        raise InvalidInput(
            f"the exported run is of format {bundle.format}; known here is {_FORMAT}",
            hint="update this node",
        )
    return bundle


def check(bundle: Bundle, formerly: tuple[Key, ...] = ()) -> Checked:
    """Hold all of it against the receipt, and against the call that its sender signed. `formerly`
    are keys that the node had.

    Raises:
        Untrusted: something is not what was signed.
    """
    try:
        key = parse_key(bundle.node_key)
    except InvalidInput as error:
        raise Untrusted(f"the exported run names no node: {error}") from error
    receipt = open_receipt(bundle.receipt, key)
    script = verify_script(
        bundle.envelope,
        bundle.module if bundle.module is not None else bundle.text or "",
        bundle.params,
        node_key=key,
        now=receipt.started_at,
        is_known_node=lambda _: True,
        formerly=formerly,
        modules=bundle.modules,
    )
    recording = decode_recording(bundle.recording)
    output = "\n".join(text for _, text in bundle.lines).encode()
    is_whole = receipt.outcome in ("done", "planned")
    for what, signed, found in (
        ("run", receipt.run, script.call.run),
        ("script", receipt.script_sha256, script.script.digest),
        ("sender", receipt.caller_key, key_text(script.signed_by)),
        ("result", receipt.result_sha256 if is_whole else None, digest_of(bundle.result)),
        ("output", receipt.output_sha256, digest_of(output) if output else None),
    ):
        if signed != found:
            raise _unfit(what, receipt)
    if receipt.recording_sha256 is None:
        if not _is_empty(recording):
            raise _unfit("recording", receipt)
    elif receipt.recording_sha256 != hashlib.sha256(bundle.recording).hexdigest():
        raise _unfit("recording", receipt)
    params = receipt.interpreted.params_sha256 if receipt.interpreted else None
    if params != digest_of(recording.params):
        raise _unfit("parameters", receipt)
    return Checked(bundle, key, receipt, script, recording)


def _unfit(what: str, receipt: Receipt) -> Untrusted:
    return Untrusted(
        f"the {what} of this run is not the one that its receipt speaks of", where=receipt.run
    )


def _is_empty(recording: Recording) -> bool:
    """Whether it says no more than a run that got nothing."""
    bare = Recording(caller=recording.caller, target=recording.target, limits=recording.limits)
    return recording == bare


async def replay(house: House, checked: Checked) -> Outcome:
    """Make the run again, and compare.

    Raises:
        Unavailable: this node cannot run that language, or has no room.
    """
    job = _job(house, checked)
    key = key_text(house.identity.node.key)
    lines: list[tuple[str, str]] = []
    async with house.ledger.reserve(key, job.limits), house.jobs.open(job) as run:
        async for event in run:
            if isinstance(event, Ended):
                assert run.playback is not None
                if event.error_name == "Unavailable":
                    raise Unavailable(f"the replay was lost: {event.error_message}")
                return _compared(checked, event, lines, run.playback)
            lines.append((event.level, event.text))
    raise Unavailable("the replay ended without a word", where=checked.receipt.run)


def _job(house: House, checked: Checked) -> Job:
    recording, script = checked.recording, checked.script
    most = msgspec.to_builtins(recording.limits)
    source = recording.module if recording.module is not None else recording.text
    params = recording.params
    modules = recording.modules
    if modules is None:
        modules = Modules(dict(script.modules))
    return Job(
        run_id=f"{checked.receipt.run}-replay",
        context="replay",
        filename=recording.filename or script.call.filename,
        source=source if source is not None else script.script.source,
        params=params if params is not None else script.params,
        caller=recording.caller,
        target=recording.target,
        limits=narrow(Asked(**most), allowance(house.settings.config.limits)),
        ops={},
        modules=modules,
        off=recording.off,
        read_only=read_only(script.needs, script.wants),
        replay=recording,
    )


def _compared(
    checked: Checked, ended: Ended, lines: list[tuple[str, str]], playback: Playback
) -> Outcome:
    """The first difference, in the order in which a person would look for it."""
    receipt, bundle = checked.receipt, checked.bundle
    limit = (receipt.limit or "").partition(" ")[0]
    is_stopped = receipt.outcome in ("cancelled", "interrupted") or (
        receipt.outcome == "limited" and limit not in _COUNTED
    )
    before = bundle.lines[checked.recording.lines :]
    difference = playback.ended()
    is_call = difference is not None and difference.what == "call"
    if not is_call:
        difference = (
            _other_line(before, lines, is_stopped=is_stopped)
            or (None if is_stopped else _other_end(checked, ended))
            or difference
        )
    return Outcome(ended, difference, (receipt.limit or receipt.outcome) if is_stopped else None)


def _other_line(
    before: tuple[tuple[str, str], ...], now: list[tuple[str, str]], *, is_stopped: bool
) -> Difference | None:
    """Of a run that was stopped, only as many are compared as both have."""
    most = min(len(before), len(now)) if is_stopped else max(len(before), len(now))
    for number in range(most):
        old = before[number] if number < len(before) else None
        new = now[number] if number < len(now) else None
        if old != new:
            return Difference("line", number + 1, "", _line(old), _line(new))
    return None


def _line(line: tuple[str, str] | None) -> str | None:
    return None if line is None else f"{line[0]}: {shown(line[1].encode())}"


def _other_end(checked: Checked, ended: Ended) -> Difference | None:
    receipt, bundle = checked.receipt, checked.bundle
    error = bundle.error
    if receipt.outcome == "limited":
        recorded = f"limited: {receipt.limit}"
        now = f"limited: {ended.limit}" if ended.limit else _outcome(ended)
    elif receipt.outcome in _RAN_THROUGH:
        recorded, now = "done", _outcome(ended)
    elif error is not None and error.code in (ScriptFailed.code, Denied.code):
        recorded, now = error.message, _outcome(ended)
        if error.code == Denied.code and error.message in now:
            now = recorded
    else:
        # It ended by what lies beyond the script: a context that had changed, a full disk.
        return None
    if recorded != now:
        return Difference("outcome", 0, "", shown(recorded.encode()), shown(now.encode()))
    is_kept = receipt.outcome in ("done", "planned")
    if is_kept and (bundle.result, bundle.is_bytes) != (ended.result, ended.is_bytes):
        return Difference("result", 0, "", _value(bundle.result), _value(ended.result))
    return None


def _outcome(ended: Ended) -> str:
    error = Ending.of(ended, None).error
    if ended.outcome == "failed" and error is not None:
        return error.message
    return ended.outcome


def _value(result: bytes | None) -> str | None:
    return None if result is None else shown(result)
