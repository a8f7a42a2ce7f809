import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
import pytest

from orvalho import errors
from orvalho.control import logic
from orvalho.control import messages as m
from orvalho.control.client import MAX_LINE_BYTES, Client, DaemonError
from orvalho.control.server import open_server

NOBODY = 65534


async def echo(request: m.Request) -> AsyncIterator[m.Reply]:
    match request:
        case m.ContextNew(name="bug"):
            raise ZeroDivisionError("oh")
        case m.ContextNew(name="surrogate"):
            yield m.Note(text="\udc80")
        case m.ContextNew(name="surrogate error"):
            raise errors.NotFound("no file \udc80")
        case m.ContextNew(name="group"):
            raise ExceptionGroup("tasks", [errors.Denied("no", rule="policy/a.csv:1")])
        case m.ContextNew(name=name):
            yield m.Note(text=name)
        case m.ScriptSend():
            yield m.Note(text=request.params and bytes(request.params).decode())
        case logic.ScriptCheck():
            yield m.Note(text=str(len(request.source)))
        case m.ScriptResult():
            result = msgspec.Raw(b'{\n "a": [1,\n2]}')
            yield m.RunEnded(run="r", outcome="done", result=result)
        case m.Why():
            raise errors.Denied(
                "why", where="w", rule="r:1", hint="h", peer="p@q", detail="line\nline"
            )
        case m.Status():
            yield m.Failed(code="conflict", message="told by hand")
            raise AssertionError("nothing is asked for after the last word")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "ctl.sock"


@pytest.fixture
def served(path):
    with (
        anyio.from_thread.start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(open_server(path, echo)),
    ):
        yield path


@pytest.fixture
def client(served):
    with Client(served) as connected:
        yield connected


def raw(path: Path, *chunks: bytes) -> list[dict]:
    """Send bytes as they are; the replies until the answer is over."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        for chunk in chunks:
            connection.sendall(chunk)
        replies = []
        with connection.makefile("rb") as lines:
            for line in lines:
                replies.append(json.loads(line))
                if replies[-1]["type"] in ("done", "failed"):
                    break
        return replies


def test_one_connection_carries_many_requests(client):
    for name in ("a", "b", "c"):
        assert client.ask(m.ContextNew(name=name), m.Note).text == name


def test_requests_sent_ahead_are_answered_in_order(served):
    many = 200
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(served))
        requests = (msgspec.json.encode(m.ContextNew(name=f"n{i}")) for i in range(many))
        connection.sendall(b"\n".join(requests) + b"\n")
        with connection.makefile("rb") as lines:
            texts = [json.loads(next(lines)).get("text") for _ in range(2 * many)]
    assert texts == [text for i in range(many) for text in (f"n{i}", None)]


def test_a_request_may_arrive_byte_by_byte(served):
    line = msgspec.json.encode(m.ContextNew(name="slow")) + b"\n"
    replies = raw(served, *(line[i : i + 1] for i in range(len(line))))
    assert [reply["type"] for reply in replies] == ["note", "done"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\x00\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"type":"nonsense"}',
        b'{"type":"why"}',
        b'{"type":"why","run":3}',
        b'{"type":"why","run":"r"',
        b'{"type":"script.send","to":"a","filename":"b","source":"\xc3"}',
        b'{"type":"status"}' * 2,
        b"[" * 100_000,
        b'{"type":"script.send","to":"a","filename":"b","source":"","params":' + b"[" * 100_000,
        b'{"type":"done"}',
    ],
)
def test_a_malformed_line_is_told_and_the_connection_lives_on(line, served):
    good = msgspec.json.encode(m.ContextNew(name="after"))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(served))
        connection.sendall(line + b"\n" + good + b"\n")
        with connection.makefile("rb") as lines:
            refused, note = json.loads(next(lines)), json.loads(next(lines))
    assert (refused["type"], refused["code"]) == ("failed", "invalid-input")
    assert note == {"type": "note", "text": "after", "changed": True}


def test_a_line_without_an_end_is_refused_and_the_client_dropped(served):
    block = b"x" * (1 << 20)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(served))
        sent = 0
        try:
            while sent <= MAX_LINE_BYTES + len(block):
                sent += connection.send(block)
        except OSError:
            pass
        try:
            answer = connection.makefile("rb").read()
        except ConnectionResetError:
            answer = b""
    assert sent <= MAX_LINE_BYTES + 8 * len(block)
    assert answer == b"" or json.loads(answer.splitlines()[0])["code"] == "invalid-input"


def test_64_mib_of_parameters_pass(client):
    source = "x" * (86 * 1024 * 1024)
    assert client.ask(logic.ScriptCheck(filename="a", source=source), m.Note).text == str(
        len(source)
    )


def test_line_breaks_inside_raw_values_do_not_break_lines(client):
    params = msgspec.Raw(b'{\n "a":\n "x\\ny"}')
    request = m.ScriptSend(to="a", filename="b", source="", params=params)
    assert json.loads(client.ask(request, m.Note).text) == {"a": "x\ny"}
    ended = client.ask(m.ScriptResult(run="r"), m.RunEnded)
    assert json.loads(bytes(ended.result)) == {"a": [1, 2]}


def test_an_error_arrives_as_its_class_with_all_its_parts(client):
    with pytest.raises(errors.Denied) as caught:
        client.ask(m.Why(run="r"), m.WhyReply)
    error = caught.value
    assert (error.message, error.where, error.rule) == ("why", "w", "r:1")
    assert (error.hint, error.peer, error.detail) == ("h", "p@q", "line\nline")
    assert client.ask(m.ContextNew(name="still here"), m.Note).text == "still here"


def test_an_error_inside_a_task_group_arrives_as_itself(client):
    with pytest.raises(errors.Denied, match="no"):
        client.ask(m.ContextNew(name="group"), m.Note)


def test_a_bug_is_told_as_one_and_logged_with_its_traceback(client, caplog):
    with pytest.raises(DaemonError, match="ZeroDivisionError: oh") as caught:
        client.ask(m.ContextNew(name="bug"), m.Note)
    assert "log.jsonl" in caught.value.hint
    record = next(record for record in caplog.records if record.message == "control.bug")
    assert record.exc_info[0] is ZeroDivisionError
    assert record.request == "ContextNew"


def test_a_reply_that_cannot_be_written_ends_nothing_but_itself(served):
    with Client(served) as client, pytest.raises(DaemonError, match="UnicodeEncodeError"):
        client.ask(m.ContextNew(name="surrogate"), m.Note)
    with Client(served) as client, pytest.raises(errors.Unavailable, match="gone"):
        client.ask(m.ContextNew(name="surrogate error"), m.Note)
    with Client(served) as client:
        assert client.ask(m.ContextNew(name="others"), m.Note).text == "others"


def test_a_failed_yielded_by_hand_is_the_last_word(client):
    with pytest.raises(errors.Conflict, match="told by hand"):
        client.ask(m.Status(), m.StatusReply)
    assert client.ask(m.ContextNew(name="x"), m.Note).text == "x"


def test_plain_json_gives_the_same_as_structs(client):
    assert client.ask_plain({"type": "context.new", "name": "a"}) == {"text": "a", "changed": True}
    with pytest.raises(errors.Denied, match="why"):
        client.ask_plain({"type": "why", "run": "r"})


@pytest.mark.anyio
@pytest.mark.parametrize("half", [False, True])
async def test_hanging_up_cancels_the_operation(path, half):
    started, cancelled = anyio.Event(), anyio.Event()

    async def answer(_: m.Request) -> AsyncIterator[m.Reply]:
        yield m.Note(text="begun")
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with open_server(path, answer):
        connection = await anyio.connect_unix(path)
        await connection.send(b'{"type":"status"}\n')
        assert b"begun" in await connection.receive()
        with anyio.fail_after(5):
            await started.wait()
            await (connection.send_eof() if half else connection.aclose())
            await cancelled.wait()
        await connection.aclose()


@pytest.mark.anyio
async def test_hanging_up_while_a_reply_is_written_closes_the_generator(path):
    closed = anyio.Event()

    async def answer(_: m.Request) -> AsyncIterator[m.Reply]:
        try:
            while True:
                yield m.Note(text="x" * 100_000)
        finally:
            closed.set()

    async with open_server(path, answer):
        connection = await anyio.connect_unix(path)
        await connection.send(b'{"type":"status"}\n')
        await connection.receive()
        await connection.aclose()
        with anyio.fail_after(5):
            await closed.wait()


@pytest.mark.anyio
async def test_a_slow_reader_holds_the_writer_back(path):
    sent = 0

    async def answer(_: m.Request) -> AsyncIterator[m.Reply]:
        nonlocal sent
        for _ in range(200):
            sent += 1
            yield m.Note(text="x" * 100_000)

    async with open_server(path, answer):
        connection = await anyio.connect_unix(path)
        await connection.send(b'{"type":"status"}\n')
        await connection.receive(1)
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        assert sent < 100
        await connection.aclose()


@pytest.mark.anyio
async def test_stopping_the_server_ends_what_runs(path):
    ended = False

    async def answer(_: m.Request) -> AsyncIterator[m.Reply]:
        nonlocal ended
        try:
            yield m.Note(text="begun")
            await anyio.sleep_forever()
        finally:
            ended = True

    async with open_server(path, answer):
        connection = await anyio.connect_unix(path)
        await connection.send(b'{"type":"status"}\n')
        await connection.receive()
    assert ended
    assert not path.exists()
    await connection.aclose()


# ---- who may connect


def test_the_socket_and_its_directory_are_the_owners_alone(served):
    assert stat.S_IMODE(served.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.parent.stat().st_mode) == 0o700


def test_a_directory_that_was_too_open_is_closed(path):
    path.parent.mkdir(mode=0o777)
    with (
        anyio.from_thread.start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(open_server(path, echo)),
    ):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


AS_NOBODY = f"""
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
if sys.argv[2] == "before":
    os.setuid({NOBODY})
    try:
        connection.connect(sys.argv[1])
    except PermissionError:
        sys.exit("permission denied")
os.setuid({NOBODY})
connection.connect(sys.argv[1])
try:
    connection.sendall(b'{{"type":"context.new","name":"intruder"}}\\n')
    sys.exit(repr(connection.recv(1000)))
except (BrokenPipeError, ConnectionResetError):
    sys.exit("b''")
"""
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@needs_root
def test_another_user_is_kept_out_by_the_permissions(served):
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(served), "before"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stderr == "permission denied\n"


@needs_root
def test_another_user_that_gets_past_the_permissions_is_hung_up_on(served, caplog):
    # Someone opened the permissions by hand: the kernel's word for who asks still holds.
    served.chmod(0o666)
    for directory in served.parents:
        if directory.stat().st_uid == 0 and directory != Path("/") and directory != Path("/tmp"):
            directory.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(served), "after"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stderr == "b''\n"
    assert any(r.message == "control.refused" and r.uid == NOBODY for r in caplog.records)


@needs_root
def test_a_client_does_not_talk_to_another_users_server(tmp_path):
    path = tmp_path / "ctl.sock"
    program = f"""
import socket, os, sys
os.chdir(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind("ctl.sock")
os.setuid({NOBODY})
listener.listen()
print("ready", flush=True)
listener.accept()[0].recv(10)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(errors.Untrusted, match="another user"):
            Client(path)
        process.wait(5)


# ---- the place


@pytest.mark.anyio
async def test_a_second_daemon_does_not_take_the_socket(path):
    async with open_server(path, echo):
        with pytest.raises(errors.Conflict, match="already"):
            async with open_server(path, echo):
                pass
        with await anyio.to_thread.run_sync(Client, path) as client:
            reply = await anyio.to_thread.run_sync(client.ask, m.ContextNew(name="a"), m.Note)
        assert reply.text == "a"


@pytest.mark.anyio
async def test_a_socket_that_a_crash_left_behind_is_replaced(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with open_server(path, echo):
        connection = await anyio.connect_unix(path)
        await connection.aclose()


@pytest.mark.anyio
async def test_a_file_at_the_sockets_place_is_left_alone(path):
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(errors.Conflict, match="no socket"):
        async with open_server(path, echo):
            pass
    assert path.read_text() == "mine"


@needs_root
@pytest.mark.anyio
async def test_a_directory_of_another_user_is_not_used(path):
    path.parent.mkdir()
    os.chown(path.parent, NOBODY, NOBODY)
    with pytest.raises(errors.Untrusted, match="directory"):
        async with open_server(path, echo):
            pass


@pytest.mark.anyio
async def test_a_link_in_the_directorys_place_is_not_followed(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.Untrusted, match="directory"):
        async with open_server(path, echo):
            pass
