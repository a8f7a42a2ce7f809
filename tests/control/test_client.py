import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio.from_thread
import pytest

from orvalho import errors
from orvalho.control import messages as m
from orvalho.control import start
from orvalho.control.client import Client, open_client, socket_path, state_directory
from orvalho.control.server import open_server


@pytest.mark.parametrize(
    ("environ", "home", "wanted"),
    [
        ({"HOME": "/h"}, "/x", "/x/run/ctl.sock"),
        ({"HOME": "/h", "ORVALHO_HOME": "/y"}, None, "/y/run/ctl.sock"),
        ({"HOME": "/h", "ORVALHO_HOME": "/y"}, "/x", "/x/run/ctl.sock"),
        ({"HOME": "/h", "ORVALHO_HOME": ""}, None, "/h/.local/state/orvalho/run/ctl.sock"),
        ({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/u"}, None, "/run/u/orvalho/ctl.sock"),
        ({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/u"}, "/x", "/x/run/ctl.sock"),
        ({"HOME": "/h", "XDG_RUNTIME_DIR": "rel"}, None, "/h/.local/state/orvalho/run/ctl.sock"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s"}, None, "/s/orvalho/run/ctl.sock"),
        ({"HOME": "/h", "XDG_STATE_HOME": "s"}, None, "/h/.local/state/orvalho/run/ctl.sock"),
    ],
)
def test_where_the_socket_lies(environ, home, wanted):
    assert str(socket_path(environ, home)) == wanted


def test_a_long_path_becomes_a_short_one_of_its_own():
    deep = "/" + "é" * 60
    short = socket_path({}, deep)
    assert str(short).startswith(f"/tmp/orvalho-{os.getuid()}/")
    assert len(bytes(short)) <= 100
    assert short == socket_path({}, deep)
    assert short != socket_path({}, deep + "2")


def test_the_state_lies_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert state_directory({}, "rel") == tmp_path / "rel" / "state"
    assert state_directory({"HOME": "/h"}, None) == Path("/h/.local/state/orvalho")


def test_a_daemon_that_goes_away_is_unavailable(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client = Client(tmp_path / "s")
        connection, _ = listener.accept()
        connection.close()
        with pytest.raises(errors.Unavailable, match="gone"):
            client.ask(m.Status(), m.StatusReply)
        assert not client.is_open


def test_a_daemon_that_is_silent_is_given_up(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client = Client(tmp_path / "s", timeout_s=0.01)
        with client, pytest.raises(errors.Unavailable, match="in time"):
            client.ask_plain({"type": "status"})


# ---- starting it


@pytest.fixture
def home(tmp_path) -> Path:
    seed = tmp_path / "home" / "state" / "keys" / "seed"
    seed.parent.mkdir(parents=True)
    seed.touch()
    return tmp_path / "home"


def programs(tmp_path: Path, daemon: str) -> dict[str, str]:
    """An environment in which `python -m orvalho.daemon` is this program."""
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "daemon.py").write_text(daemon)
    (shim / "sitecustomize.py").write_text(
        f"import orvalho, sys\norvalho.__path__.insert(0, {str(shim)!r})\n"
    )
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(shim)}


SERVING = """
import fcntl, os, sys, anyio
home = sys.argv[sys.argv.index("--home") + 1]
lock = os.open(home + "/state/lock", os.O_CREAT | os.O_RDWR)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(1)
from orvalho.control.client import socket_path
from orvalho.control.messages import Note
from orvalho.control.server import open_server
open(home + "/started", "a").write("x")
async def answer(request):
    yield Note(text=f"{os.getpid()} {os.getsid(0)} {os.getcwd()}")
    if type(request).__name__ == "DaemonStop":
        os._exit(0)
async def main():
    await anyio.sleep(0.2)
    async with open_server(socket_path({}, home), answer):
        await anyio.sleep(20)
anyio.run(main)
"""


def test_a_home_that_is_not_initialised_says_what_to_type(tmp_path):
    with pytest.raises(errors.NotFound) as caught:
        open_client({}, str(tmp_path))
    assert caught.value.hint == "orvalho init --name laptop"
    assert list(tmp_path.iterdir()) == []


def test_two_that_start_it_at_once_get_the_same_daemon(home, tmp_path):
    environ = programs(tmp_path, SERVING)
    answers: list[str] = []

    def start_and_ask() -> None:
        with open_client(environ, str(home)) as client:
            answers.append(client.ask(m.ContextNew(name="a"), m.Note).text)

    threads = [threading.Thread(target=start_and_ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    try:
        assert len(answers) == 3
        assert len(set(answers)) == 1
        assert (home / "started").read_text() == "x"
        pid, session, directory = answers[0].split()
        assert pid == session, "it must outlive the terminal"
        assert int(pid) != os.getpid()
        assert directory == "/"
    finally:
        with Client(socket_path({}, str(home))) as client:
            list_until_gone(client)


def list_until_gone(client: Client) -> None:
    try:
        for _ in client.stream(m.DaemonStop()):
            pass
    except errors.Unavailable:
        pass


@pytest.mark.parametrize(
    ("last_words", "told"), [("'cannot bind'", "cannot bind"), ("1", "t2 port.taken\nOSError: 98")]
)
def test_a_daemon_that_dies_is_told_with_its_last_words(home, tmp_path, last_words, told):
    log = [
        {"time": "t1", "level": "info", "message": "daemon.started"},
        {"time": "t2", "level": "error", "message": "port.taken", "traceback": "a\nOSError: 98"},
    ]
    (home / "state" / "log.jsonl").write_text("\n".join(map(json.dumps, log)) + "\nnot json\n")
    environ = programs(tmp_path, f"import sys; sys.exit({last_words})")

    def connect() -> Client:
        return Client(socket_path({}, str(home)))

    with pytest.raises(errors.Unavailable, match="status 1") as caught:
        start.start_daemon(environ, str(home), home / "state", connect, deadline_s=1.0)
    assert caught.value.detail == told
    assert caught.value.hint == "orvalho daemon run"


def test_a_daemon_that_says_why_it_cannot_start_is_repeated(home, tmp_path):
    words = "error[untrusted]: others may use the seed\\n  where /k\\n  try   chmod 600 /k\\n"
    environ = programs(tmp_path, f"import sys; sys.stderr.write('{words}'); sys.exit(6)")

    def connect() -> Client:
        return Client(socket_path({}, str(home)))

    with pytest.raises(errors.Untrusted, match="others may use the seed") as caught:
        start.start_daemon(environ, str(home), home / "state", connect, deadline_s=1.0)
    assert (caught.value.where, caught.value.hint) == ("/k", "chmod 600 /k")


def test_a_daemon_that_never_listens_is_given_up(home, tmp_path):
    environ = programs(tmp_path, "import os, time; time.sleep(5)")
    begun = time.monotonic()

    def connect() -> Client:
        raise errors.Unavailable("nobody")

    with pytest.raises(errors.Unavailable, match="does not listen"):
        start.start_daemon(environ, str(home), home / "state", connect, deadline_s=0.3)
    assert time.monotonic() - begun < 3


def test_it_is_never_imported_from_where_the_user_stands(home, tmp_path):
    hostile = tmp_path / "hostile" / "orvalho"
    hostile.mkdir(parents=True)
    (hostile / "__init__.py").write_text("")
    (hostile / "daemon.py").write_text("import sys; sys.exit(66)")
    done = subprocess.run(
        start.daemon_command(None, "--help"), cwd=hostile.parent, capture_output=True, check=False
    )
    assert done.returncode != 66


def test_a_running_daemon_is_used_as_it_is(home):
    async def answer(_: m.Request):
        yield m.Note(text="running")

    path = socket_path({}, str(home))
    with (
        anyio.from_thread.start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(open_server(path, answer)),
        open_client({}, str(home)) as client,
    ):
        assert client.ask(m.Status(), m.Note).text == "running"
    assert sys.executable in start.daemon_command(None)
