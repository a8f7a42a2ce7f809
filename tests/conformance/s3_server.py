"""moto's S3 on loopback, in a thread of this process."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

import opendal
import opendal.exceptions

# Made up, and accepted by moto like any other.
CREDENTIALS = "AKIATESTORVALHO:moto-accepts-any-word"
_NUMBERS = itertools.count(1)


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a server for the length of the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def new_bucket(server: str) -> str:
    """An empty bucket of its own."""
    name = f"bucket-{next(_NUMBERS)}"
    put(server, f"/{name}", b"")
    return name


def put(server: str, path: str, content: bytes) -> None:
    """Past our own code: a PUT as anybody may send it. `path` goes out as it is."""
    status, _ = _request(server, "PUT", path, content)
    assert status == 200, status


def get(server: str, path: str) -> bytes | None:
    """What lies there, with the rights to the whole bucket; None for nothing."""
    bucket, _, key = path.strip("/").partition("/")
    key_id, _, secret = CREDENTIALS.partition(":")
    operator = opendal.Operator(
        "s3",
        bucket=bucket,
        endpoint=server,
        region="us-east-1",
        access_key_id=key_id,
        secret_access_key=secret,
    )
    try:
        return operator.read(key)
    except opendal.exceptions.NotFound:
        return None


def _request(server: str, method: str, path: str, content: bytes = b"") -> tuple[int, bytes]:
    connection = HTTPConnection(server.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, content)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
