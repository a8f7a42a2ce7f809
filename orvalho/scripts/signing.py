"""A signed request to run one script, once, in one context of one node.

The payload names everything that matters: who asks, where it may run, the digests of script and
parameters, what is asked for, from when until when, and a run id that is never used again. The
script and its parameters travel beside the envelope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, TypedDict

import msgspec

from orvalho.contexts.identity import Key, Signer, check_certificate, key_text, parse_key
from orvalho.contexts.names import check_label, parse_run_id
from orvalho.errors import InvalidInput, Untrusted
from orvalho.policies.capability import MAX_CAPABILITIES, Capability, parse_capability
from orvalho.policies.quota import Asked
from orvalho.scripts.dsse import open_sealed, refuse_twins, seal
from orvalho.scripts.manifest import Manifest
from orvalho.scripts.modules import MAX_MODULES, check_modules, digest_of, is_named, named
from orvalho.scripts.script import HAVE_MODULES, Script, Source, make_script
from orvalho.scripts.traces import Hop, check_chain, traceparent

PAYLOAD_TYPE: Final = "application/vnd.orvalho.script+json;v=1"
# A call that is to do less than its fields of old say. Who does not know these refuses it, and
# does not run it as if they were not there.
NARROWED_TYPE: Final = "application/vnd.orvalho.script+json;v=2"
PAYLOAD_TYPES: Final = (PAYLOAD_TYPE, NARROWED_TYPE)
MAX_PARAMS_BYTES: Final = 16 << 20
MAX_ENVELOPE_BYTES: Final = 64 << 10
SKEW_S: Final = 60.0
LIFE_S: Final = 7 * 86_400.0
MAX_LIFE_S: Final = 30 * 86_400.0


NONE: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a script is made of beside its own source: `modules` path -> text, and as in Call."""

    modules: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    locked: Mapping[str, str] | None = None
    denies: tuple[str, ...] = ()


ALONE: Final = Parts()


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: a context, by its key and the certificate its node gave it. Keys are
    `ed25519:...`, the certificate is base64 on the wire."""

    node: str
    node_key: str
    context: str
    context_key: str
    certificate: bytes


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where it may run, and nowhere else."""

    node_key: str
    context: str


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """The signed payload. Moments are Unix seconds, digests 64 hex digits of SHA-256. `modules`
    are the script's other files, path -> digest; `libraries` the names such as `lib:images` that
    it imports; `locked`, if there is a lock, path -> digest of the files behind those. `plan`:
    it is only to be said what it would do. `denies`: what its sender does not let it do, whatever
    the rest says. `chain`: the runs through which it came, outermost first, and `traceparent` as
    W3C writes that."""

    run: str
    caller: Caller
    target: Target
    filename: str
    script_sha256: str
    params_sha256: str
    needs: tuple[str, ...]
    wants: tuple[str, ...]
    limits: Asked
    issued_at: float
    expires_at: float
    modules: dict[str, str] = msgspec.field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    locked: dict[str, str] | None = None
    plan: bool = False
    denies: tuple[str, ...] = ()
    chain: tuple[Hop, ...] = ()
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class SignedScript:
    """`envelope`, the script's source, `params` and `grants` are what travels."""

    envelope: bytes
    call: Call
    params: bytes
    modules: Mapping[str, str] = field(default_factory=dict)
    grants: tuple[bytes, ...] = ()


class Expected(TypedDict):
    """What `open_call` holds a call against."""

    node_key: Key
    now: float
    is_known_node: Callable[[Key], bool]
    sender: Key | None
    formerly: Collection[Key]


@dataclass(frozen=True, slots=True)
class OpenedCall:
    """A call whose every statement was checked but those about the bytes that travel beside it.
    The rest as in VerifiedScript."""

    call: Call
    caller_node: Key
    signed_by: Key
    needs: tuple[Capability, ...]
    wants: tuple[Capability, ...]


@dataclass(frozen=True, slots=True)
class VerifiedScript:
    """A call whose every statement was checked. `caller_node` is a key that we know, and
    `signed_by` the key of the context `call.caller.context` there."""

    call: Call
    script: Script
    params: bytes
    caller_node: Key
    signed_by: Key
    needs: tuple[Capability, ...]
    wants: tuple[Capability, ...]
    modules: Mapping[str, str] = field(default_factory=dict)


def sign_script(
    script: Script,
    manifest: Manifest,
    *,
    signer: Signer,
    caller: Caller,
    target: Target,
    params: bytes,
    run: str,
    now: float,
    life_s: float = LIFE_S,
    parts: Parts = ALONE,
    plan: bool = False,
    chain: tuple[Hop, ...] = (),
) -> SignedScript:
    """Sign with the caller's context key (`signer`). `params` is what `json_value` answered;
    `chain` are the runs that led to it.

    Raises:
        InvalidInput: the life is too long, or there are too many modules.
    """
    if not 0 < life_s <= MAX_LIFE_S:
        raise InvalidInput(f"a script waits at most {MAX_LIFE_S / 86_400:.0f} days to be run")
    check_modules(parts.modules)
    call = Call(
        run=run,
        caller=caller,
        target=target,
        filename=script.filename,
        script_sha256=script.digest,
        params_sha256=hashlib.sha256(params).hexdigest(),
        needs=tuple(map(str, manifest.needs)),
        wants=tuple(map(str, manifest.wants)),
        limits=manifest.limits,
        issued_at=now,
        expires_at=now + life_s,
        modules={path: digest_of(each) for path, each in sorted(parts.modules.items())},
        libraries=named(parts.libraries),
        locked=dict(parts.locked) if parts.locked is not None else None,
        plan=plan,
        denies=_denied(parts.denies),
        chain=chain,
        traceparent=traceparent(chain),
    )
    payload_type = NARROWED_TYPE if call.plan or call.denies else PAYLOAD_TYPE
    envelope = seal(signer, payload_type, msgspec.json.encode(call))
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise InvalidInput(
            f"the signed call has {len(envelope)} bytes, more than {MAX_ENVELOPE_BYTES}",
            where=script.filename,
            hint="fewer modules, or shorter paths",
        )
    return SignedScript(envelope, call, params, parts.modules)


def verify_script(
    envelope: bytes,
    source: Source,
    params: bytes,
    *,
    node_key: Key,
    now: float,
    is_known_node: Callable[[Key], bool],
    sender: Key | None = None,
    formerly: Collection[Key] = (),
    modules: Mapping[str, str] = NONE,
) -> VerifiedScript:
    """Check an envelope that was sent to us, `node_key`, or to a key we had, one of `formerly`. In
    this order: size and form, the signature over the bytes that arrived, and only then what they
    say: who, whereto, when, and the digests of script, modules and parameters. `sender` is
    the node at the other end of the link, when only its own contexts may ask. Not checked here:
    whether the run id was seen before (a transaction's task, see `runs.stage_new`), and whether
    our context exists.

    Raises:
        Untrusted: each reason has its own message.
    """
    opened = open_call(
        envelope,
        node_key=node_key,
        now=now,
        is_known_node=is_known_node,
        sender=sender,
        formerly=formerly,
    )
    call = opened.call
    try:
        script = make_script(call.filename, source)
    except InvalidInput as error:
        raise Untrusted(f"the signed call is malformed: {error}") from error
    _check_digests(call, script, params)
    _check_modules(call, script, modules)
    return VerifiedScript(
        call,
        script,
        params,
        opened.caller_node,
        opened.signed_by,
        opened.needs,
        opened.wants,
        modules,
    )


def open_call(
    envelope: bytes,
    *,
    node_key: Key,
    now: float,
    is_known_node: Callable[[Key], bool],
    sender: Key | None = None,
    formerly: Collection[Key] = (),
) -> OpenedCall:
    """The first part of `verify_script`, all but the digests: what may be believed of a call before
    the rest of it is there.

    Raises:
        Untrusted: each reason has its own message.
    """
    payload, signed_by = open_sealed(envelope, *PAYLOAD_TYPES, max_bytes=MAX_ENVELOPE_BYTES)
    refuse_twins(payload)
    try:
        call = msgspec.json.decode(payload, type=Call)
        check_label(call.target.context)
        if parse_run_id(call.run) != call.run:
            raise InvalidInput("a run id is written in capitals")
        caller_node = parse_key(call.caller.node_key)
        needs = tuple(map(parse_capability, call.needs[: MAX_CAPABILITIES + 1]))
        wants = tuple(map(parse_capability, call.wants[: MAX_CAPABILITIES + 1]))
        denies = tuple(map(parse_capability, call.denies[: MAX_CAPABILITIES + 1]))
    except (msgspec.DecodeError, InvalidInput, RecursionError) as error:
        raise Untrusted(f"the signed call is malformed: {error}") from error
    if len(denies) > MAX_CAPABILITIES:
        raise Untrusted(f"the signed call denies more than {MAX_CAPABILITIES} things")
    if len(needs) + len(wants) > MAX_CAPABILITIES:
        raise Untrusted(f"the signed call asks for more than {MAX_CAPABILITIES} things")
    _check_target(call, (node_key, *formerly))
    _check_caller(call, signed_by, caller_node, is_known_node)
    if sender is not None and sender != caller_node:
        raise Untrusted(
            f"the script comes from {key_text(caller_node)}, but {key_text(sender)} sent it"
        )
    _check_times(call, now)
    _check_chain(call, key_text(node_key))
    return OpenedCall(call, caller_node, signed_by, needs, wants)


def denies_of(envelope: bytes) -> tuple[Capability, ...]:
    """What the sender of a call denied its own script. The envelope was verified before.

    Raises:
        Untrusted: it was not.
    """
    payload, _ = open_sealed(envelope, *PAYLOAD_TYPES, max_bytes=MAX_ENVELOPE_BYTES)
    return tuple(map(parse_capability, msgspec.json.decode(payload, type=Call).denies))


def _denied(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(texts) > MAX_CAPABILITIES:
        raise InvalidInput(f"a script is denied at most {MAX_CAPABILITIES} things, one by one")
    return tuple(str(parse_capability(text)) for text in texts)


def json_value(params: bytes) -> bytes:
    """Parameters as they are signed: one JSON value, without blanks around it.

    Raises:
        InvalidInput: they are no JSON, or too much of it.
    """
    if len(params) > MAX_PARAMS_BYTES:
        raise InvalidInput(f"params have {len(params)} bytes, more than {MAX_PARAMS_BYTES}")
    try:
        params.decode()
        return bytes(msgspec.json.decode(params, type=msgspec.Raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"params are not JSON: {error}", hint="--params '{\"a\": 1}'") from error


def _check_modules(call: Call, script: Script, modules: Mapping[str, str]) -> None:
    try:
        check_modules(modules)
        digests = {path: digest_of(each) for path, each in modules.items()}
    except InvalidInput as error:
        raise Untrusted(f"the script's modules are malformed: {error}") from error
    if digests != call.modules:
        changed = next((path for path in digests if digests[path] != call.modules.get(path)), None)
        raise Untrusted(
            "a module is not the one that was signed"
            if changed
            else "a module that was signed did not come with the script",
            where=ascii(changed) if changed else None,
        )
    if (digests or call.libraries) and script.language not in HAVE_MODULES:
        raise Untrusted(f"{script.filename}: only JavaScript, TypeScript and Starlark have modules")
    if not all(map(is_named, call.libraries)) or len(call.libraries) > MAX_MODULES:
        raise Untrusted("the signed call names libraries that cannot be")


def _check_target(call: Call, ours: Collection[Key]) -> None:
    if call.target.node_key not in map(key_text, ours):
        raise Untrusted(f"the script was signed for another node, {call.target.node_key!a}")


def _check_caller(
    call: Call, signed_by: Key, caller_node: Key, is_known_node: Callable[[Key], bool]
) -> None:
    caller = call.caller
    if caller.context_key != key_text(signed_by):
        raise Untrusted("the script is signed by another key than its caller's")
    if not is_known_node(caller_node):
        raise Untrusted(
            f"the script's caller is on a node that we do not know, {caller.node_key}",
            hint="orvalho peer ls",
        )
    certificate = check_certificate(caller.certificate, caller_node, "context")
    if certificate.key != signed_by or certificate.name != caller.context:
        raise Untrusted("the caller's certificate is about another context")


def _check_chain(call: Call, ours: str) -> None:
    try:
        check_chain(call.chain, call.traceparent, caller_node=call.caller.node_key, ours=ours)
    except InvalidInput as error:
        raise Untrusted(f"the call is refused: {error.message}", where=call.run) from error


def _check_times(call: Call, now: float) -> None:
    if call.expires_at - call.issued_at > MAX_LIFE_S:
        raise Untrusted("the script's signature would hold for too long")
    if call.issued_at > now + SKEW_S:
        raise Untrusted(
            f"the script is from the future by {call.issued_at - now:,.0f} s",
            hint="compare the clocks of both devices",
        )
    if call.expires_at < now - SKEW_S:
        raise Untrusted(f"the script expired {now - call.expires_at:.0f} s ago")


def _check_digests(call: Call, script: Script, params: bytes) -> None:
    if script.digest != call.script_sha256:
        raise Untrusted("the script is not the one that was signed")
    if len(params) > MAX_PARAMS_BYTES or call.params_sha256 != hashlib.sha256(params).hexdigest():
        raise Untrusted("the parameters are not the ones that were signed")
