"""Object stores: no way out of the prefix, no rights but those given, and an end to every call."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import opendal
import pytest

from orvalho.contexts.filesystem import virtual_path
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts.object_store import open_s3
from orvalho.errors import InvalidInput, OrvalhoError
from tests.conformance.s3_server import CREDENTIALS, get, new_bucket, put, s3_server

REFUSED = (fs_errors.FSError, fs_errors.IllegalBackReference)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@contextmanager
def answering(answer) -> Iterator[tuple[str, list[tuple[str, str, dict[str, str]]]]]:
    """A server that answers each request by `answer(handler)`: its URL, and what it was asked."""
    asked: list[tuple[str, str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self):
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            asked.append((self.command, self.path, dict(self.headers)))
            answer(self)

        def log_message(self, *_):
            """Nothing on the terminal."""

    for method in ("GET", "PUT", "HEAD", "DELETE", "POST"):
        setattr(Handler, f"do_{method}", Handler._answer)
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}", asked
    finally:
        made.shutdown()
        made.server_close()
        thread.join()


def say(handler, status, body=b"", **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def test_opendal_alone_lets_a_path_climb_out_of_its_root(server):
    """Why a place is spelled before it comes to opendal. When this fails, the trap is gone."""
    bucket = new_bucket(server)
    put(server, f"/{bucket}/secret", b"outside")
    key_id, _, secret = CREDENTIALS.partition(":")
    operator = opendal.Operator(
        "s3",
        bucket=bucket,
        root="/ctx",
        endpoint=server,
        region="us-east-1",
        access_key_id=key_id,
        secret_access_key=secret,
    )
    assert operator.read("../secret") == b"outside"


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/../secret", "..\\secret"])
def test_no_path_leaves_the_prefix(server, path):
    bucket = new_bucket(server)
    put(server, f"/{bucket}/secret", b"outside")
    with open_s3(f"s3://{bucket}/ctx", endpoint=server, credentials=CREDENTIALS) as tree:
        tree.writebytes("a", b"1")
        for call in (tree.readbytes, tree.getinfo, tree.listdir, tree.remove, tree.makedir):
            with pytest.raises(REFUSED):
                call(path)
        with pytest.raises(REFUSED):
            tree.writebytes(path, b"changed")
    assert get(server, f"/{bucket}/secret") == b"outside"


def test_keys_that_are_no_paths_are_not_there(server):
    bucket = new_bucket(server)
    for key in ("ctx/fine", "ctx/..%2Fup", "ctx/a//b", "ctx/con", "ctx/d/", "ctx/d"):
        put(server, f"/{bucket}/{key}", b"x")
    with open_s3(f"s3://{bucket}/ctx", endpoint=server, credentials=CREDENTIALS) as tree:
        names = tree.listdir("/")
        assert len(names) == len(set(names))
        assert all(virtual_path(name) == f"/{name}" for name in names)
        assert {"fine", "d"} <= set(names)
        assert not any(".." in name for name in names)
        assert tree.getinfo("d").is_file


def test_only_the_rights_that_were_given_are_used(server, monkeypatch):
    """Not those of the environment the daemon was started in."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFROMTHEENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the daemon")
    with answering(lambda handler: say(handler, 404)) as (url, asked):
        for credentials, expected in ((None, None), ("AKIAGIVEN:s", "AKIAGIVEN/")):
            asked.clear()
            tree = open_s3("s3://bucket/x", endpoint=url, credentials=credentials)
            assert not tree.exists("a")
            assert asked
            for _, _, headers in asked:
                told = {name.lower(): value for name, value in headers.items()}
                assert "FROMTHEENVIRONMENT" not in str(headers)
                if expected is None:
                    assert "authorization" not in told
                else:
                    assert expected in told["authorization"]


@pytest.mark.parametrize("credentials", ["", "alone", ":", "a:", ":b", "a:b\nc"])
def test_credentials_have_a_form_and_are_not_repeated(credentials):
    with pytest.raises(InvalidInput) as refused:
        open_s3("s3://bucket/x", credentials=credentials)
    assert not credentials.strip(":") or f"'{credentials}'" not in str(refused.value)


def test_no_error_tells_the_credentials():
    """Not even when the store sends them back."""
    secret = "wJalr-very-secret"

    def echo(handler):
        told = f"<Error><Code>{secret}</Code><Message>AKIAME {secret}</Message></Error>"
        say(handler, 403 if handler.command == "GET" else 500, told.encode())

    with answering(echo) as (url, _):
        tree = open_s3("s3://bucket/x", endpoint=url, credentials=f"AKIAME:{secret}", call_s=2)
        for call in (
            lambda: tree.readbytes("a"),
            lambda: tree.listdir("/"),
            lambda: tree.writebytes("a", b"1"),
            lambda: tree.remove("a"),
        ):
            with pytest.raises((OSError, OrvalhoError, fs_errors.FSError)) as failed:
                call()
            seen: BaseException | None = failed.value
            shown = str(seen) + repr(seen)
            assert secret not in shown
            assert "AKIAME" not in shown


def test_a_store_that_hangs_is_left_and_holds_up_nobody_else():
    """The blocking list of opendal holds the interpreter's lock: ours must not."""
    gaps = []
    stop = threading.Event()

    def tick():
        last = time.monotonic()
        while not stop.is_set():
            time.sleep(0.01)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tree = open_s3("s3://bucket/x", endpoint=url, credentials="a:b", call_s=2.0)
        ticker = threading.Thread(target=tick)
        ticker.start()
        try:
            for call in (tree.listdir, tree.getinfo):
                started = time.monotonic()
                with pytest.raises(OSError):
                    call("/a")
                assert time.monotonic() - started < 30
            # Well below the 2 s of one call, well above what a busy machine does.
            assert max(gaps) < 1.9
        finally:
            stop.set()
            ticker.join()


def test_nonsense_of_a_store_is_an_error_or_nothing():
    """Hundreds of answers that no store gives; a tree asks several times for each."""
    rng = random.Random(11)
    bodies = [
        b"",
        b"<",
        b"\xff\xfe\x00",
        b"<ListBucketResult></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>x/../../up</Key><Size>-1</Size></Contents>"
        b"</ListBucketResult>",
        b"<ListBucketResult><Contents><Key>x/a</Key><Size>99999999999999999999</Size></Contents>"
        b"</ListBucketResult>",
        b"<ListBucketResult><CommonPrefixes><Prefix>elsewhere/</Prefix></CommonPrefixes>"
        b"</ListBucketResult>",
        b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        b"{}",
    ]

    def nonsense(handler):
        status = rng.choice([200, 200, 200, 204, 206, 301, 404, 416, 418])
        junk = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        say(handler, status, rng.choice([*bodies, junk]), ETag="x", Last_Modified="yesterday")

    answered = 0
    with answering(nonsense) as (url, asked):
        tree = open_s3("s3://bucket/x", endpoint=url, credentials="a:b", call_s=2.0)
        while len(asked) < 300 and answered < 100:
            answered += 1
            for call in (
                lambda: tree.listdir("/"),
                lambda: tree.readbytes("a"),
                lambda: tree.writebytes("d/a", b"1"),
                lambda: tree.measure(100),
            ):
                try:
                    found = call()
                except (OSError, OrvalhoError, fs_errors.FSError):
                    continue
                if isinstance(found, list):
                    assert all(virtual_path(name) == f"/{name}" for name in found)
    assert answered
