"""Three real devices: laptop and phone2 cannot reach each other, but both reach the server."""

from __future__ import annotations

import json
from pathlib import Path

from tests.scenarios.devices import Device, wait_until
from tests.scenarios.test_depot import three_devices


def path_of(device: Device, peer: str) -> str:
    peers = device.types("status", "--json").json["peers"]
    return next(each["path"] for each in peers if each["name"] == peer)


def test_a_script_runs_through_the_relay_and_status_says_so(tmp_path: Path) -> None:
    with three_devices(tmp_path) as (laptop, server, phone):
        # given two devices that listen nowhere any more
        for device in (laptop, phone):
            device.stop()
            config = device.home / "config/config.toml"
            lines = config.read_text().splitlines()
            kept = [line for line in lines if not line.startswith("listen")]
            config.write_text("\n".join(["listen = []", *kept]) + "\n")
        for device in (laptop, phone):
            device.start()
        wait_until(lambda: laptop.online("phone2") and phone.online("laptop"), "they are linked")

        # when one sends the other a script
        script = tmp_path / "job.js"
        script.write_text("export default ({ params }) => params.n + 1")
        sent = laptop.does("script", "send", "peer@phone2", str(script), "--param", "n=41")

        # then it runs, and both say which way
        assert json.loads(sent) == 42
        assert path_of(laptop, "phone2") == 'relay "server"'
        assert path_of(phone, "laptop") == 'relay "server"'
        assert path_of(laptop, "server").startswith("direct ")
        assert 'relay "server"' in laptop.does("status")

        # and when the server goes, so does that way
        server.stop()
        wait_until(lambda: not laptop.online("phone2"), "the relay is gone")
        server.start()
        wait_until(lambda: laptop.online("server"), "the server is back", limit_s=90)
        wait_until(lambda: laptop.online("phone2"), "so is the relay", limit_s=90)
