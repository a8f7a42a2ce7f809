"""Addresses on NATS servers: `nats://host:4222/<nkey>`, and with a login those to listen on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from orvalho.contexts.nkeys import parse_user_nkey
from orvalho.errors import InvalidInput

_PORT: Final = 4222


@dataclass(frozen=True, slots=True)
class Place:
    """An address, read. `nkey` is whom to dial there; empty in an address to listen on."""

    scheme: str
    host: str
    port: int
    nkey: str
    user: str | None
    password: str | None
    ca: str | None

    @property
    def server(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def read_address(address: str) -> Place:
    """Raises:
    InvalidInput: it is no address of this transport.
    """
    shown = address.rpartition("@")[2]  # no password in a message
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or _PORT
    except ValueError as error:
        raise InvalidInput(f"this is no address: {error}", where=shown) from error
    options = dict(parse_qsl(parts.query))
    if parts.scheme not in ("nats", "nats+tls") or not host or options.keys() - {"ca"}:
        raise InvalidInput(
            "a NATS address has a server, and no options but ?ca=",
            where=shown,
            hint="an address looks like nats://192.168.1.20:4222",
        )
    nkey = parts.path.strip("/")
    if nkey:
        parse_user_nkey(nkey)
    return Place(
        scheme=parts.scheme,
        host=host,
        port=port,
        nkey=nkey,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        ca=options.get("ca"),
    )
