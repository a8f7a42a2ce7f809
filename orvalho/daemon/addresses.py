"""Where others can dial this node, from where it listens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import ifaddr


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


def interfaces() -> dict[str, tuple[str, ...]]:
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
