"""init and daemon: the commands that start the daemon's own program, here a stand-in for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orvalho.control import messages as m

STAND_IN = """
import sys
print("already initialised" if "--again" in sys.argv else "initialised", *sys.argv[1:])
sys.exit(3 if "bad" in sys.argv else 0)
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """What to add to the environment, so that `python -m orvalho.daemon` is STAND_IN."""
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "daemon.py").write_text(STAND_IN)
    (shim / "sitecustomize.py").write_text(
        f"import orvalho\norvalho.__path__.insert(0, {str(shim)!r})\n"
    )
    return {"PYTHONPATH": str(shim)}


def test_init_relays_what_the_daemons_program_says(shell, stand_in):
    argv = ("--home", "there", "init", "--name", "laptop", "--listen", "ws://[::]:1")
    done = shell(*argv, **stand_in)
    words = done.stdout.split()
    assert done.returncode == 0
    assert words[:6] == ["initialised", "init", "--name", "laptop", "--listen", "ws://[::]:1"]
    assert words[6] == "--home"
    assert Path(words[7]).is_absolute()


def test_init_relays_the_exit_status(shell, stand_in):
    assert shell("init", "--name", "bad", **stand_in).returncode == 3


def test_init_in_json_is_as_its_schema_says(shell, stand_in):
    shown = json.loads(shell("init", "--name", "x", "--json", **stand_in).stdout)
    assert shown["changed"] is True
    assert shown["lines"] == ["initialised init --name x"]


def test_run_becomes_the_daemon(shell, stand_in):
    done = shell("daemon", "run", **stand_in)
    assert done.stdout == "initialised run --foreground\n"


def test_status_of_a_daemon_that_does_not_run_starts_nothing(shell, stand_in, home):
    done = shell("daemon", "status", **stand_in)
    assert done.returncode == 4
    assert "orvalho daemon start" in done.stderr
    assert not home.exists()


def test_start_of_a_daemon_that_runs_says_so(daemon, orvalho, capsys):
    assert orvalho("daemon", "start") == 0
    assert capsys.readouterr().out.startswith("already running: laptop, pid 42")


def test_stop_waits_until_nobody_answers(shell, home):
    program = f"""
import anyio, os
from orvalho.control.client import socket_path
from orvalho.control.server import open_server
async def answer(request):
    os._exit(0)
    yield
async def main():
    async with open_server(socket_path({{}}, {str(home)!r}), answer):
        print("ready", flush=True)
        await anyio.sleep(20)
anyio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        done = shell("daemon", "stop", "--grace", "1")
        assert (done.returncode, done.stdout) == (0, "stopped\n")
        assert process.wait(5) == 0
    again = shell("daemon", "stop")
    assert (again.returncode, again.stdout) == (0, "already stopped\n")


def test_the_grace_period_reaches_the_daemon(daemon, shell):
    async def stop(_: m.Request):
        daemon.socket.unlink()
        return
        yield

    daemon.answers[m.DaemonStop] = stop
    assert shell("daemon", "stop", "--grace", "30").returncode == 0
    assert daemon.last(m.DaemonStop).grace_s == 30


def test_one_setting_or_those_of_a_section_are_shown(daemon, orvalho, capsys):
    for key in ("limits.wall", "limits"):
        assert orvalho("config", "show", key) == 0
        assert "limits.wall" in capsys.readouterr().out
    assert orvalho("config", "show", "limit") == 4
    assert 'there is no setting "limit"' in capsys.readouterr().err
