"""Signed statements: DSSE envelopes (Dead Simple Signing Envelope, version 1) with one signature.

The signature covers PAE(type, payload), the payload as it travelled, so nothing is ever encoded
again to be verified. What arrives must be in the one form that `seal` writes: base64 that is
canonical, JSON without blanks and without a name twice. Two readers that disagree about which of
two equal names counts would disagree about what was signed.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from orvalho.contexts.identity import Key, Signer, key_text, parse_key, verify_raw
from orvalho.errors import InvalidInput, Untrusted


class _Signature(msgspec.Struct, frozen=True, kw_only=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[_Signature, ...]


def seal(signer: Signer, payload_type: str, payload: bytes) -> bytes:
    """The envelope's JSON. `payload` is JSON without blanks between its tokens."""
    signature = signer.sign_raw(_pae(payload_type.encode(), payload))
    return msgspec.json.encode(
        _Envelope(
            payload=base64.b64encode(payload).decode(),
            payload_type=payload_type,
            signatures=(
                _Signature(keyid=key_text(signer.key), sig=base64.b64encode(signature).decode()),
            ),
        )
    )


def open_sealed(blob: bytes, *payload_types: str, max_bytes: int) -> tuple[bytes, Key]:
    """The payload, of one of these types, and the key that signed it. Whether that key may is the
    caller's to ask, and the payload is still to be decoded, after `refuse_twins`.

    Raises:
        Untrusted: the envelope is not exactly one, or its signature does not hold.
    """
    if len(blob) > max_bytes:
        raise Untrusted(f"the envelope has {len(blob)} bytes, more than {max_bytes}")
    try:
        envelope = msgspec.json.decode(blob, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Untrusted(f"the envelope is malformed: {error}") from error
    _refuse_twins(blob, "the envelope")
    if envelope.payload_type not in payload_types:
        raise Untrusted(f"this envelope holds {envelope.payload_type!a}, not {payload_types[0]}")
    key, signature = _only_signature(envelope.signatures)
    payload = _strict_base64(envelope.payload)
    verify_raw(key, _pae(envelope.payload_type.encode(), payload), signature)
    return payload, key


def refuse_twins(payload: bytes) -> None:
    """Refuse JSON with a name twice in one object, or with blanks.

    Raises:
        Untrusted: it has either, or is no JSON in UTF-8.
    """
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise Untrusted("the payload is not UTF-8") from error
    _refuse_twins(payload, "the payload")


def _only_signature(signatures: tuple[_Signature, ...]) -> tuple[Key, bytes]:
    if not signatures:
        raise Untrusted("the envelope is not signed")
    if len(signatures) > 1:
        # One key that signs twice must not count as two, and nobody here needs a second one.
        raise Untrusted(f"the envelope has {len(signatures)} signatures, not one")
    try:
        key = parse_key(signatures[0].keyid)
    except InvalidInput as error:
        raise Untrusted("the envelope's keyid is not an ed25519 key") from error
    return key, _strict_base64(signatures[0].sig)


def _strict_base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Untrusted("the envelope's base64 is malformed") from error
    # Spare bits at the end would give one statement many spellings.
    if base64.b64encode(raw).decode() != text:
        raise Untrusted("the envelope's base64 is not canonical")
    return raw


def _pae(payload_type: bytes, payload: bytes) -> bytes:
    return b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type, len(payload), payload)


_ANYTHING: Final = msgspec.json.Decoder()
_BY_NAME: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])


def _is_as_we_write(raw: bytes) -> bool:
    """Whether it comes out the same when it is read and written again: then nothing was lost on
    the way, no second name and no blank. Numbers may be spelled otherwise; that says nothing."""
    try:
        return msgspec.json.encode(_ANYTHING.decode(raw)) == raw
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False


def _refuse_twins(raw: bytes, what: str) -> None:
    """A dict keeps one of two equal names, so the lengths of what it holds no longer add up to
    the length of what was read. This costs a fraction of a parser that keeps every pair."""
    if _is_as_we_write(raw):
        return
    try:
        if raw.startswith(b"{"):
            values = _BY_NAME.decode(raw)
            length = sum(len(name.encode()) + len(bytes(raw)) + 4 for name, raw in values.items())
            nested = [bytes(value) for value in values.values()]
        elif raw.startswith(b"["):
            nested = [bytes(value) for value in _ITEMS.decode(raw)]
            length = sum(len(value) + 1 for value in nested)
        elif not raw[:1].isspace():
            return
        else:
            nested, length = [], 0
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Untrusted(f"{what} is malformed: {error}") from error
    if max(length, 1) + 1 != len(raw):
        raise Untrusted(f"{what} has a name twice, or blanks between its words")
    for value in nested:
        _refuse_twins(value, what)
