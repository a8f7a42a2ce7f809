"""Where others can dial this node, from where it listens."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import ifaddr

from orvalho.daemon.settings import DEFAULT_PORT
from orvalho.errors import InvalidInput
from orvalho.peers.multicast import Interface


def advertised(listening: Sequence[str]) -> Sequence[str]:
    """The same URLs, with a wildcard host replaced by each address this machine has, loopback
    last: a second home on the same machine is reached by it."""
    found: list[str] = []
    for url in listening:
        parts = urlsplit(url)
        if parts.hostname not in ("0.0.0.0", "::"):  # noqa: S104 -- recognised here, not bound
            found.append(url)
            continue
        whose, at, _ = parts.netloc.rpartition("@")
        for host in _hosts(want_ipv6=parts.hostname == "::"):
            shown = f"[{host}]" if ":" in host else host
            found.append(f"{parts.scheme}://{whose}{at}{shown}:{parts.port}{parts.path}")
    return list(dict.fromkeys(found))


def interfaces() -> list[Interface]:
    """The network interfaces of this machine that have an address, but for loopback."""
    found = []
    for adapter in ifaddr.get_adapters():
        hosts = [each.ip if isinstance(each.ip, str) else each.ip[0] for each in adapter.ips]
        addresses = [ip_address(host.partition("%")[0]) for host in hosts]
        if adapter.index is None or all(address.is_loopback for address in addresses):
            continue
        has_ipv6 = any(isinstance(address, IPv6Address) for address in addresses)
        has_ipv4 = any(not isinstance(address, IPv6Address) for address in addresses)
        found.append(Interface(adapter.index, adapter.name, has_ipv4, has_ipv6))
    return found


def has_ipv6() -> bool:
    """Whether this machine can listen on IPv6 at all."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def usable(listen: Sequence[str]) -> Sequence[str]:
    """The addresses to listen on, without IPv6's wildcard where there is no IPv6: a home is
    carried from one machine to another."""
    if any(urlsplit(url).hostname == "::" for url in listen) and not has_ipv6():
        kept = [url for url in listen if urlsplit(url).hostname != "::"]
        return kept or listen
    return listen


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


def hosts_by_interface() -> dict[str, tuple[str, ...]]:
    """The addresses of this machine, by the interface they are on."""
    return {
        adapter.nice_name: tuple(
            each.ip if isinstance(each.ip, str) else each.ip[0] for each in adapter.ips
        )
        for adapter in ifaddr.get_adapters()
        if adapter.ips
    }


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
