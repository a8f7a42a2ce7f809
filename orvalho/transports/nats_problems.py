"""What is wrong with a NATS server, told apart: each cause with its own words and what helps."""

from __future__ import annotations

import ssl
from typing import Any, Final

from orvalho.errors import Unavailable

# Error codes of JetStream's API (its errors.json), by what they mean to us.
NO_STREAM: Final = 10059
_DISABLED: Final = frozenset((10039, 10076))
_FULL: Final = frozenset((10023, 10028, 10047, 10077))
_FULL_WORDS: Final = ("maximum bytes exceeded", "maximum messages exceeded", "insufficient")
WRITE_AGAIN: Final = "where the server's configuration is written: orvalho nats config"


class NoStream(Unavailable):
    """The stream has not been made yet."""


class Forbidden(Unavailable):
    """The server knows us, and does not let us do this."""


class NoJetStream(Unavailable):
    """Nobody answers there."""


class NoServer(Unavailable):
    """Nothing at that address speaks to us."""


def connect_problem(error: Exception, server: str, nkey: str, user: str | None) -> Unavailable:
    """Why there is no connection to a server; `user` if one was named to log in."""
    text = str(error) or type(error).__name__
    lowered, place = text.lower(), server[server.index("://") :]
    if isinstance(error, ssl.SSLCertVerificationError) or "certificate verify" in lowered:
        return Unavailable(
            f"the NATS server's certificate is not believed: {_certificate(error, text)}",
            where=server,
            hint=f"in `listen`, name who signed it: nats+tls{place}?ca=/path/to/ca.pem",
        )
    if "offers no tls" in lowered:
        return Unavailable(
            "the server offers no TLS", where=server, hint=f"{WRITE_AGAIN} --tls DIR"
        )
    if isinstance(error, ssl.SSLError):
        return Unavailable(
            f"TLS with the NATS server fails: {text}",
            where=server,
            hint=f"{WRITE_AGAIN} --tls DIR",
        )
    if "authorization" in lowered or "nonce" in lowered or "authentication" in lowered:
        if user is not None:
            return Unavailable(
                f'the NATS server refuses this node as user "{user}": {text}',
                where=server,
                hint="put the right user and password into the address in `listen`",
            )
        return Unavailable(
            f"the NATS server refuses this node, whose nkey is {nkey}: {text}",
            where=server,
            hint=f"pair it with the device that looks after the server, or {WRITE_AGAIN}",
        )
    return NoServer(
        f"no NATS server answers: {text}", where=server, hint="start it: nats-server -c FILE"
    )


def stream_problem(error: dict[str, Any], name: str, server: str) -> Unavailable:
    """Why JetStream does not do what it was asked; `error` as it told, `name` that of the stream
    or bucket."""
    code, text = error.get("err_code"), str(error.get("description") or "it says no more")
    if code == NO_STREAM:
        return NoStream(f"the NATS server has no stream {name}", where=server)
    if code in _DISABLED:
        return no_jetstream(server)
    if code in _FULL or any(words in text for words in _FULL_WORDS):
        return Unavailable(
            f"{name} on the NATS server is full: {text}",
            where=server,
            hint="give it more room there: a larger max_file_store, or more disk",
        )
    return Unavailable(f"{name} on the NATS server: {text}", where=server)


def no_jetstream(server: str) -> NoJetStream:
    """Nobody answers on a subject of JetStream's: it is off, or what the subject names is not
    there."""
    return NoJetStream(
        "the NATS server keeps nothing: JetStream is off there",
        where=server,
        hint=f"start it with jetstream in its configuration; {WRITE_AGAIN}",
    )


def not_ours_to_make(name: str, server: str) -> Unavailable:
    """It is missing, and the server does not let this node make it."""
    return Unavailable(
        f"{name} is not there on the NATS server, and this node may not make it",
        where=server,
        hint="start the daemon of the device that wrote the server's configuration: it makes it",
    )


def forbidden(what: str, server: str) -> Forbidden:
    """The server knows us, and does not let us publish to `what`."""
    return Forbidden(
        f"the NATS server does not let this node do that: {what}", where=server, hint=WRITE_AGAIN
    )


def _certificate(error: Exception, text: str) -> str:
    return getattr(error, "verify_message", "") or text
