"""Where others can dial this node, from where it listens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import ifaddr

from orvalho.daemon.config import DEFAULT_PORT
from orvalho.errors import InvalidInput


def advertised(listening: Sequence[str]) -> Sequence[str]:
    """The same URLs, with a wildcard host replaced by each address this machine has, loopback
    last: a second home on the same machine is reached by it."""
    found: list[str] = []
    for url in listening:
        parts = urlsplit(url)
        if parts.hostname in ("0.0.0.0", "::"):  # noqa: S104 -- recognised here, not bound
            hosts: Iterable[str] = _hosts(want_ipv6=parts.hostname == "::")
        else:
            hosts = [parts.hostname or ""]
        for host in hosts:
            shown = f"[{host}]" if ":" in host else host
            found.append(f"{parts.scheme}://{shown}:{parts.port}{parts.path}")
    return list(dict.fromkeys(found))


def dialable(text: str) -> str:
    """The URL that a person means by `192.168.1.20`, `fd00::20`, `laptop.local:4460` or a URL.

    Raises:
        InvalidInput: it is no address.
    """
    with suppress(ValueError):  # anything but an IPv6 address
        text = f"[{IPv6Address(text)}]"
    url = text if "://" in text else f"ws://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise InvalidInput(f"{text!a} is no address", hint="--at 192.168.1.20")
    if "://" in text or port is not None:
        return url
    return f"{url}:{DEFAULT_PORT}"


def _hosts(*, want_ipv6: bool) -> list[str]:
    hosts = []
    for adapter in ifaddr.get_adapters():
        for each in adapter.ips:
            text = each.ip if isinstance(each.ip, str) else each.ip[0]
            address = ip_address(text)
            is_ipv6 = isinstance(address, IPv6Address)
            # Link-local addresses mean nothing without the other side's interface.
            if is_ipv6 == want_ipv6 and not address.is_link_local:
                hosts.append(text)
    return sorted(hosts, key=lambda host: ip_address(host).is_loopback)
