"""Whole daemons over each of our transports."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, wait_until


@pytest.mark.parametrize("scheme", ["h2", "h2s", "quic"])
def test_two_daemons_talk_over(scheme: str, tmp_path: Path) -> None:
    laptop, phone = Device("laptop", tmp_path / "laptop"), Device("phone2", tmp_path / "phone2")
    try:
        for device in (laptop, phone):
            device.init()
            listen = f'listen = ["{scheme}://127.0.0.1:0"]\n'
            (device.home / "config/conf.d/10-listen.toml").write_text(listen)
            device.start()
        phone.does("ctx", "new", "peer")
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "they are linked")
        said = laptop.does("script", "send", "peer@phone2", "-e", "'x'.repeat(300000).length")
        assert json.loads(said) == 300_000
        shown = json.loads(laptop.does("transports", "--json"))
        assert {link["transport"] for link in shown["links"]} == {scheme}
        assert f"{scheme}://" in laptop.does("transports")
    finally:
        laptop.stop()
        phone.stop()


def test_two_transports_give_a_link_and_a_spare(tmp_path: Path) -> None:
    """And when the far side's power goes away, both are known to be dead within seconds."""
    laptop, phone = Device("laptop", tmp_path / "laptop"), Device("phone2", tmp_path / "phone2")
    try:
        for device in (laptop, phone):
            device.init()
            listen = 'listen = ["ws://127.0.0.1:0", "h2://127.0.0.1:0", "quic://127.0.0.1:0"]\n'
            (device.home / "config/conf.d/10-listen.toml").write_text(listen)
            device.start()
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        laptop.does("peer", "add", ticket)

        def links() -> list[dict[str, object]]:
            found: list[dict[str, object]] = json.loads(laptop.does("transports", "--json"))[
                "links"
            ]
            return found

        wait_until(lambda: len({link["transport"] for link in links()}) == 2, "there is a spare")
        assert sum(bool(link["used"]) for link in links()) == 1
        phone.kill()
        wait_until(lambda: not links(), "both links are known to be lost")
    finally:
        laptop.stop()
        phone.stop()


def test_a_far_side_that_freezes_is_noticed_and_found_again(tmp_path: Path) -> None:
    laptop, phone = Device("laptop", tmp_path / "laptop"), Device("phone2", tmp_path / "phone2")
    try:
        for device in (laptop, phone):
            device.init()
            device.start()
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        laptop.does("peer", "add", ticket)
        wait_until(lambda: laptop.online("phone2"), "they are linked")
        pid = json.loads(phone.does("status", "--json"))["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: not laptop.online("phone2"), "the silence is noticed")
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: laptop.online("phone2"), "they are linked again")
    finally:
        laptop.stop()
        phone.stop()
