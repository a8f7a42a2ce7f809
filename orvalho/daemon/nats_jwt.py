"""The two messages of a NATS server's auth callout: it asks whether a client may come in, and is
answered with what that client may do. Sans-IO; nothing here waits, or reads a clock or a file.

Both are JSON web tokens (RFC 7519, compact form) of NATS's own kind: the header is
`{"typ":"JWT","alg":"ed25519-nkey"}`, keys are nkeys, the claims stand under `nats` (NATS ADR-14 for
tokens, ADR-26 for the callout). On the way each is sealed between the server's X25519 key of the
moment and ours: `xkv1`, a nonce of 24 bytes, and a NaCl box.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from orvalho.contexts.identity import Key, Signer, hkdf_sha256, verify_raw
from orvalho.contexts.nkeys import (
    account_nkey,
    curve_nkey,
    parse_curve_nkey,
    parse_server_nkey,
    parse_user_nkey,
    user_nkey,
)
from orvalho.daemon.nats_rights import Rights
from orvalho.errors import InvalidInput, Untrusted

SECRET_BYTES: Final = 32
# The account that a server has where its configuration names none.
_ACCOUNT: Final = "$G"
_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}
_ASKS: Final = "nats-authorization-request"
_SEALED: Final = b"xkv1"
_NONCE_BYTES: Final = 24
_MOST_BYTES: Final = 1 << 16


class _ServerId(msgspec.Struct, frozen=True):
    id: str


class _ClientInfo(msgspec.Struct, frozen=True):
    nonce: str = ""


class _ConnectOptions(msgspec.Struct, frozen=True):
    nkey: str = ""
    sig: str = ""
    # Another name to go by: under it a connection would not be found again.
    jwt: str = ""
    user: str = ""
    auth_token: str = ""


class _Asked(msgspec.Struct, frozen=True):
    server_id: _ServerId
    user_nkey: str
    client_info: _ClientInfo
    connect_opts: _ConnectOptions


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    aud: str
    nats: _Asked


@dataclass(frozen=True, slots=True)
class Question:
    """A server asks about a client. `client` is the key that the client has proved, None when it
    has proved none. `user_nkey` is what the server calls it, `box` what the answer is sealed in."""

    server: str
    user_nkey: str
    client: Key | None
    box: Box


class CalloutKeys:
    """The keys of the one that answers, all from one secret: the account key that signs, the user
    by which it logs in, and the key that questions are sealed to."""

    def __init__(self, secret: bytes) -> None:
        def derive(what: bytes) -> bytes:
            return hkdf_sha256(secret, info=b"orvalho/nats-callout/1/" + what)

        self._account = Signer(derive(b"account"))
        self._curve = PrivateKey(derive(b"curve"))
        self.service: Final = Signer(derive(b"service"))

    @property
    def account(self) -> str:
        return account_nkey(self._account.key)

    @property
    def user(self) -> str:
        return user_nkey(self.service.key)

    @property
    def curve(self) -> str:
        return curve_nkey(bytes(self._curve.public_key))

    def read(self, content: bytes, sealed_by: str) -> Question:
        """What a server asks; `sealed_by` is the key that it names beside.

        Raises:
            Untrusted: it is not sealed, not signed by the server that it names, or malformed.
        """
        if not content.startswith(_SEALED) or len(content) > _MOST_BYTES:
            raise Untrusted("a question of a NATS server is not sealed, or too large")
        try:
            box = Box(self._curve, PublicKey(parse_curve_nkey(sealed_by)))
            token = box.decrypt(content[len(_SEALED) :])
            signed, _, signature = token.rpartition(b".")
            head, _, body = signed.partition(b".")
            claims = msgspec.json.decode(_unpacked(body), type=_Claims)
            verify_raw(parse_server_nkey(claims.iss), signed, _unpacked(signature))
            header = msgspec.json.decode(_unpacked(head), type=dict[str, str])
        except (CryptoError, ValueError, TypeError, InvalidInput, msgspec.MsgspecError) as error:
            raise Untrusted(f"a question of a NATS server is malformed: {error}") from error
        asked = claims.nats
        if claims.aud != _ASKS or claims.iss != asked.server_id.id or header != _HEADER:
            raise Untrusted("a token of a NATS server is no question, or another server's")
        return Question(asked.server_id.id, asked.user_nkey, _proved(asked), box)

    def admit(self, question: Question, rights: Rights, now: float) -> bytes:
        """The answer that lets the client in."""
        user = {
            "jti": question.user_nkey,
            "iat": int(now),
            "iss": self.account,
            "sub": question.user_nkey,
            "aud": _ACCOUNT,
            "nats": {
                "pub": {"allow": rights.publish},
                "sub": {"allow": rights.subscribe},
                "subs": -1,
                "data": -1,
                "payload": -1,
                "type": "user",
                "version": 2,
            },
        }
        return self._answer(question, {"jwt": self._signed(user)}, now)

    def refuse(self, question: Question, reason: str, now: float) -> bytes:
        """The answer that keeps it out; the server writes the reason into its log."""
        return self._answer(question, {"error": reason}, now)

    def _answer(self, question: Question, content: dict[str, str], now: float) -> bytes:
        token = self._signed(
            {
                "jti": question.user_nkey,
                "iat": int(now),
                "iss": self.account,
                "sub": question.user_nkey,
                "aud": question.server,
                "nats": {**content, "type": "authorization_response", "version": 2},
            }
        )
        return _SEALED + bytes(question.box.encrypt(token.encode()))

    def _signed(self, claims: dict[str, Any]) -> str:
        signed = f"{_packed(msgspec.json.encode(_HEADER))}.{_packed(msgspec.json.encode(claims))}"
        return f"{signed}.{_packed(self._account.sign_raw(signed.encode()))}"


def _proved(asked: _Asked) -> Key | None:
    """The client's key, if it has signed the number that the server chose for this connection."""
    options = asked.connect_opts
    if options.jwt or options.user or options.auth_token or not asked.client_info.nonce:
        return None
    try:
        key = parse_user_nkey(options.nkey)
        # The library writes the signature in the other alphabet than tokens are in.
        signature = _unpacked(options.sig.replace("+", "-").replace("/", "_").encode())
        verify_raw(key, asked.client_info.nonce.encode(), signature)
    except (InvalidInput, Untrusted, ValueError):
        return None
    return key


def _packed(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _unpacked(text: bytes) -> bytes:
    bare = text.rstrip(b"=")
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("it is no base64") from error
