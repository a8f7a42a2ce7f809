"""Asking who shows a code on a real network of two hosts: namespaces with a cable in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.peers.test_seeker import free_port

INVITER = """
import anyio
from orvalho.peers.seeker import answer_seekers
async def main():
    async with answer_seekers({port}, {{b"h" * 16: ("ws://192.0.2.1:4455",)}}.get):
        print("ready", flush=True)
        await anyio.sleep(60)
anyio.run(main)
"""
JOINER = """
import anyio
from orvalho.peers.seeker import seek
print(anyio.run(seek, b"h" * 16, {port}, 20.0))
"""


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=20)


def inside(pid: int, *words: str) -> list[str]:
    return ["nsenter", "-t", str(pid), "-n", *words]


@contextmanager
def two_hosts() -> Iterator[tuple[int, int]]:
    """Process ids that stand for two hosts, each with one end of a cable and no address."""
    hosts = []
    try:
        for _ in range(2):
            # It says when it is in its namespace.
            host = subprocess.Popen(
                ["unshare", "-n", "sh", "-c", "echo; exec sleep 120"], stdout=subprocess.PIPE
            )
            hosts.append(host)
            assert host.stdout is not None
            if host.stdout.read(1) != b"\n":
                pytest.skip("network namespaces are not allowed here")
        one, other = hosts[0].pid, hosts[1].pid
        run(*inside(one, "ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable2"))
        run(*inside(one, "ip", "link", "set", "cable2", "netns", str(other)))
        yield one, other
    finally:
        for host in hosts:
            host.kill()
            host.communicate()


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_an_inviter_is_found_over_the_cable(family: str) -> None:
    port = free_port()
    with two_hosts() as hosts:
        for number, (pid, end) in enumerate(zip(hosts, ("cable", "cable2"), strict=True), 1):
            for device in ("all", "default", end):
                off = "0" if family == "IPv6" else "1"
                run(*inside(pid, "sysctl", "-w", f"net.ipv6.conf.{device}.disable_ipv6={off}"))
            run(*inside(pid, "ip", "link", "set", end, "up"))
            if family == "IPv4":
                run(*inside(pid, "ip", "address", "add", f"192.0.2.{number}/24", "dev", end))
        inviter = subprocess.Popen(
            inside(hosts[0], sys.executable, "-c", INVITER.format(port=port)),
            stdout=subprocess.PIPE,
        )
        try:
            assert inviter.stdout is not None
            assert inviter.stdout.readline() == b"ready\n"
            joiner = inside(hosts[1], sys.executable, "-c", JOINER.format(port=port))
            found = subprocess.run(joiner, capture_output=True, text=True, timeout=60, check=False)
            assert found.stdout == "[('ws://192.0.2.1:4455',)]\n", found
        finally:
            inviter.kill()
            inviter.communicate()
