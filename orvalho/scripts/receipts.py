"""Receipts: what ran, for whom, with what outcome and cost, signed by where it ran."""

from __future__ import annotations

from typing import Final

import msgspec

from orvalho.contexts.identity import Key, Signer
from orvalho.errors import Untrusted
from orvalho.policies.quota import Usage
from orvalho.scripts.dsse import open_sealed, refuse_twins, seal
from orvalho.scripts.traces import Caused

PAYLOAD_TYPE: Final = "application/vnd.orvalho.receipt+json;v=1"
MAX_BYTES: Final = 1 << 20


class Tried(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One decision of the run. `rule` is `file:line` at the target, None when none spoke."""

    action: str
    object: str
    allowed: bool
    rule: str | None


class UsedLibrary(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the target's that the script was run with: the name that stands for it, empty for
    one that another file asked for by its path."""

    name: str
    path: str
    sha256: str


class Interpreted(msgspec.Struct, frozen=True, kw_only=True):
    """The target's hook that rewrote the parameters: where it lies and its digest, and the digest
    of the parameters that the script got."""

    path: str
    sha256: str
    params_sha256: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """`caller` and `target` are `context@node`; digests are SHA-256 in hex, None for nothing;
    moments are Unix seconds; `error` is the code of an error class, and `limit` says which limit
    or quota ended it: `cpu`, `quota cpu (group guests)`; `modules` are the files that came with the
    script, path -> digest, `libraries` those of the target; `commit` is what it changed there.
    `parent` is the run that made the call, `trace` the W3C trace id, `caused` the runs elsewhere
    that this one made. `recording_sha256`: the digest of what it got from outside, where that was
    recorded."""

    run: str
    script_sha256: str
    filename: str
    caller: str
    caller_key: str
    target: str
    outcome: str
    error: str | None
    tried: tuple[Tried, ...]
    usage: Usage
    result_sha256: str | None
    output_sha256: str | None
    started_at: float
    ended_at: float
    limit: str | None = None
    modules: dict[str, str] = msgspec.field(default_factory=dict)
    libraries: tuple[UsedLibrary, ...] = ()
    commit: str | None = None
    plan_sha256: str | None = None
    interpreted: Interpreted | None = None
    parent: str | None = None
    trace: str = ""
    caused: tuple[Caused, ...] = ()
    recording_sha256: str | None = None


def sign_receipt(signer: Signer, receipt: Receipt) -> bytes:
    """A DSSE envelope."""
    return seal(signer, PAYLOAD_TYPE, msgspec.json.encode(receipt))


def open_receipt(blob: bytes, key: Key) -> Receipt:
    """Raises:
    Untrusted: it is no receipt, or not one that `key` signed.
    """
    payload, signed_by = open_sealed(blob, PAYLOAD_TYPE, max_bytes=MAX_BYTES)
    if signed_by != key:
        raise Untrusted("the receipt is signed by another key than the target's")
    refuse_twins(payload)
    try:
        return msgspec.json.decode(payload, type=Receipt)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Untrusted(f"the receipt is malformed: {error}") from error
