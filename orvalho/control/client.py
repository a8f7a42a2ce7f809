"""One request, a stream of replies: the synchronous client, and where the daemon's socket lies.

The CLI's fastest commands import this module, so it must stay cheap: msgspec and all that starts
a daemon are imported when they are first needed.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from orvalho.control.credentials import peer_uid
from orvalho.errors import OrvalhoError, Unavailable, Untrusted, from_code

if TYPE_CHECKING:
    from orvalho.control.messages import Message, Reply, Request

T = TypeVar("T", bound="Message")

# 64 MiB of parameters in base64, and what stands around them.
MAX_LINE_BYTES: Final = 128 * 1024 * 1024
# sockaddr_un holds 108 bytes on Linux and 104 on BSD (unix(7), unix(4)).
_MAX_PATH_BYTES: Final = 100
_STARTUP_S: Final = 20.0


class DaemonError(OrvalhoError):
    """A bug in the daemon ended the request; its log has the traceback."""

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1


class DaemonGone(Unavailable):
    """The daemon went away before it had answered."""


def state_directory(environ: Mapping[str, str], home: str | None) -> Path:
    """Where keys, database and log of this home lie."""
    top = _top(environ, home)
    if top is not None:
        return top / "state"
    state = environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):  # the specification has relative paths ignored
        return Path(state, "orvalho")
    return Path(environ.get("HOME") or "~").expanduser() / ".local/state/orvalho"


def socket_path(environ: Mapping[str, str], home: str | None) -> Path:
    """Where the daemon of this home listens; nothing is created. `home` is the `--home` flag.

    A path that does not fit into a socket address becomes `/tmp/orvalho-<uid>/<hash>.sock`.
    """
    top = _top(environ, home)
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if top is not None:
        path = top / "run" / "ctl.sock"
    elif runtime.startswith("/"):
        path = Path(runtime, "orvalho", "ctl.sock")
    else:
        path = state_directory(environ, None) / "run" / "ctl.sock"
    if len(bytes(path)) <= _MAX_PATH_BYTES:
        return path
    import hashlib  # noqa: PLC0415 - 3 ms that only the rare long path needs

    name = hashlib.sha256(bytes(path)).hexdigest()[:32]
    return Path(f"/tmp/orvalho-{os.getuid()}/{name}.sock")  # noqa: S108 - its owner is checked


def _top(environ: Mapping[str, str], home: str | None) -> Path | None:
    top = home or environ.get("ORVALHO_HOME")
    return Path(top).expanduser().absolute() if top else None


def open_client(environ: Mapping[str, str], home: str | None) -> Client:
    """A client of this home's daemon, which is started when it does not run.

    Raises:
        NotFound: the home is not initialised.
        Unavailable: the daemon did not start; `detail` has the end of its log.
        Untrusted: another user listens there.
    """
    path = socket_path(environ, home)
    try:
        return Client(path)
    except Unavailable:
        from orvalho.control.start import start_daemon  # noqa: PLC0415 - only when nothing listens

        state = state_directory(environ, home)
        return start_daemon(environ, home, state, lambda: Client(path), deadline_s=_STARTUP_S)


class Client:
    """One connection to the daemon; requests go one after the other.

    Every call raises the class of `orvalho.errors` that the daemon's `Failed` names, Unavailable
    when the daemon goes away or does not answer within `timeout_s`, and DaemonError for its bugs.
    """

    def __init__(self, path: str | Path, timeout_s: float | None = None) -> None:
        """Raises:
        Unavailable: nothing listens at `path`.
        Untrusted: another user does.
        """
        self._messages: tuple[Any, Any, Any, Any] | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
            uid = peer_uid(self._socket)
        except OSError as error:
            self._socket.close()
            raise Unavailable(
                f"the daemon cannot be reached: {error.strerror}.",
                where=str(path),
                hint="orvalho daemon start",
            ) from error
        if uid != os.geteuid():
            self._socket.close()
            raise Untrusted(
                f"another user (uid {uid}) listens where this home's daemon should.",
                where=str(path),
            )
        self._path = str(path)
        self._file = self._socket.makefile("rb", buffering=65536)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """Hang up; the daemon ends what it was doing for us."""
        self._file.close()
        self._socket.close()

    def stream(self, request: Request) -> Iterator[Reply]:
        """Each reply as it comes, without the closing `Done`. Leaving early closes the client."""
        if self._messages is None:
            import msgspec  # noqa: PLC0415 - 25 ms that `status` does without

            from orvalho.control import messages  # noqa: PLC0415

            self._messages = (
                msgspec.json.Encoder(),
                msgspec.json.Decoder(messages.Reply),
                messages.Done,
                messages.Failed,
            )
        encoder, decoder, done, failed = self._messages
        ended = False
        try:
            self._send(encoder.encode(request))
            while True:
                reply = decoder.decode(self._receive())
                if ended := isinstance(reply, done):
                    return
                if ended := isinstance(reply, failed):
                    raise error_of(reply)
                yield reply
        finally:
            if not ended:
                self.close()

    def ask(self, request: Request, kind: type[T]) -> T:
        """The one reply of a request that has one."""
        found: T | None = None
        for reply in self.stream(request):
            if isinstance(reply, kind):
                found = reply
        if found is None:
            raise Unavailable(
                f"the daemon did not answer with {kind.__name__}: it is of another version.",
                hint="orvalho daemon stop",
            )
        return found

    def ask_plain(self, request: Mapping[str, object]) -> dict[str, Any]:
        """`ask` without msgspec, for the commands that must start fastest: JSON both ways."""
        self._send(json.dumps(request).encode())
        found: dict[str, Any] = {}
        while True:
            reply: dict[str, Any] = json.loads(self._receive())
            kind = reply.pop("type")
            if kind == "done":
                return found
            if kind == "failed":
                raise _error(**reply)
            found = reply

    def _send(self, line: bytes) -> None:
        try:
            # A raw value may hold line breaks. JSON allows them only between tokens, where a
            # space means the same.
            self._socket.sendall(line.replace(b"\n", b" ") + b"\n")
        except OSError as error:
            self.close()
            raise self._gone(error) from error

    def _receive(self) -> bytes:
        try:
            line = self._file.readline(MAX_LINE_BYTES)
        except OSError as error:
            self.close()
            raise self._gone(error) from error
        if not line.endswith(b"\n"):
            self.close()
            raise self._gone(None)
        return line

    def _gone(self, error: OSError | None) -> DaemonGone:
        if isinstance(error, TimeoutError):
            why = "it did not answer in time"
        else:
            why = (error.strerror if error else None) or "it closed the connection"
        return DaemonGone(
            f"the daemon is gone: {why}.", where=self._path, hint="orvalho daemon status"
        )


def error_of(failed: Any) -> OrvalhoError:
    """The exception that a `Failed` stands for."""
    fields = ("code", "message", "where", "rule", "hint", "peer", "detail")
    return _error(**{name: getattr(failed, name) for name in fields})


def _error(code: str, message: str, **parts: Any) -> OrvalhoError:
    if code == DaemonError.code:
        return DaemonError(message, **parts)
    return from_code(code, message, **parts)
