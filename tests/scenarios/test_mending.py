"""What an owner mends on a device: its settings while it does not start, and a second `init`."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios.devices import Device, two_devices


def test_a_setting_is_mended_while_the_daemon_does_not_start(tmp_path: Path) -> None:
    device = Device("laptop", tmp_path / "laptop")
    device.init()
    config = device.home / "config/config.toml"
    config.write_text(config.read_text() + '[limits]\nwall = "soon"\n[log]\nlevel = "loud"\n')
    assert device.types("status").status == 2
    # One of two mistakes: it is mended, and the other one is told.
    said = device.does("config", "set", "limits.wall", "30s")
    assert "log.level is one of" in said
    wrong = device.types("config", "set", "log.level", "quiet")
    assert (wrong.status, "log.level = quiet" in wrong.err) == (2, True), wrong
    assert "log.level = info" in device.does("config", "set", "log.level", "info").replace('"', "")
    try:
        device.start()
        refused = device.types("config", "set", "limits.cpu", "soon")
        assert (refused.status, "limits.cpu = soon" in refused.err) == (2, True), refused
        assert "config.toml:" not in refused.err, "no line of it holds what was refused"
        assert 'wall = "30s"' in config.read_text()
    finally:
        device.stop()


def test_init_says_what_it_ignores_and_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    device = Device("laptop", tmp_path / "laptop")
    failed = device.types("init", "--name", "laptop", "--listen", "nowhere")
    assert failed.status == 2, failed
    assert not device.home.exists()
    device.init()
    again = device.types("init", "--name", "phone2", "--listen", "ws://127.0.0.1:9")
    assert again.status == 0, again
    assert "already initialised" in again.out
    assert "ignored --name phone2: this node is called laptop" in again.out
    assert "ignored --listen ws://127.0.0.1:9" in again.out
    assert "ignored" not in device.does("init", "--name", "laptop")


def test_what_our_own_policy_refuses_is_called_so(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, _):
        job = tmp_path / "read.js"
        job.write_text(
            '// /// orvalho\n// needs = ["caller.fs.read:/secret"]\n// ///\n'
            "export default ({ caller }) => caller.fs.readText('/secret');\n"
        )
        printed = laptop.types("script", "send", "peer@phone2", str(job))
        assert printed.status == 3, printed
        assert "your own policy" in printed.err
        assert "--expose" in printed.err


def test_a_refused_value_is_not_compared_with_a_line_about_files(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, _):
        code = "// /// orvalho\n// needs = ['target.kv.write:shared']\n// ///\n1"
        job = tmp_path / "put.js"
        job.write_text(code)
        printed = laptop.types("script", "send", "peer@phone2", str(job))
        assert printed.status == 3, printed
        assert "kv.write" in printed.err
        assert "comes closest" not in printed.err
