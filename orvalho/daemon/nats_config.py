"""The configuration of a NATS server for our devices: one user a paired node, with no rights but
its own. It is written again, and the server told, whenever a node is paired or forgotten.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from anyio import to_thread

from orvalho.contexts.identity import Key, hkdf_sha256
from orvalho.contexts.trust import TrustBook
from orvalho.daemon.nats_jwt import SECRET_BYTES, CalloutKeys
from orvalho.daemon.nats_rights import LEAF_RIGHTS, NatsUser, Rights, rights_of
from orvalho.errors import InvalidInput, Unavailable

_log = logging.getLogger(__name__)

FILE: Final = "nats-server.conf"
# The stream's name where the settings give it none.
STREAM: Final = "orvalho"
LEAF_USER: Final = "leaf"
_PID_FILE: Final = "nats-server.pid"
_CERTIFICATE: Final = ("cert.pem", "key.pem")
_LISTEN: Final = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
_LEAF: Final = re.compile(r"(nats-leaf|nats|tls|wss?)://\S+")


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the owner asked for it; kept in the state directory. `out` and `tls` are absolute
    directories (`tls` holds cert.pem and key.pem), `leaf` the URL of a server to lean on,
    `leaf_hub` where servers that lean on this one are awaited, `stream` the JetStream stream that
    keeps sealed mail. With `callout` the server asks this node who may come in, which reaches it
    at that URL."""

    out: str
    listen: str
    tls: str | None = None
    leaf: str | None = None
    leaf_hub: str | None = None
    stream: str = STREAM
    callout: str | None = None

    def check(self) -> None:
        """Raises:
        InvalidInput: something in it that the server would not take.
        """
        _check_listen(self.listen, "0.0.0.0:4222")
        if self.leaf_hub is not None:
            _check_listen(self.leaf_hub, "0.0.0.0:7422")
        if self.leaf is not None and not _LEAF.fullmatch(self.leaf):
            raise InvalidInput(
                "a leaf leans on the URL of a server",
                where=self.leaf.rpartition("@")[2],
                hint="nats-leaf://hub.example:7422",
            )
        if self.tls is not None:
            missing = [name for name in _CERTIFICATE if not (Path(self.tls) / name).is_file()]
            if missing:
                raise InvalidInput(f"it holds no {' and no '.join(missing)}", where=self.tls)


def _check_listen(text: str, example: str) -> None:
    found = _LISTEN.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise InvalidInput("where to listen is a host and a port", where=text, hint=example)


class NatsSecrets:
    """What this node's server knows by heart, from one secret: the keys of the callout, and the
    password by which other servers lean on it."""

    def __init__(self, secret: bytes) -> None:
        self.keys: Final = CalloutKeys(secret)
        password = hkdf_sha256(secret, info=b"orvalho/nats-leaf/1", size_bytes=20)
        self.leaf_password: Final = base64.b32encode(password).decode().lower()


class NatsConfigFile:
    """The file, once the owner has asked for it. `state` is where that is remembered."""

    def __init__(self, state: Path, name: str, me: Key, book: TrustBook) -> None:
        self._memory = state / "nats.json"
        self._secret = state / "nats.secret"
        self._name = name
        self._me = me
        self._book = book
        self._changed = asyncio.Event()
        self._watchers: list[Callable[[], None]] = []
        self.settings: NatsSettings | None = None
        # Where the file lies, once the owner has asked for it.
        self.path: Path | None = None

    def changed(self) -> None:
        """A node has come into the trust book, or left it."""
        self._changed.set()

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after each change of who may come in, or of the settings."""
        self._watchers.append(changed)

    async def secrets(self) -> NatsSecrets:
        """The keys and the password that this node's server knows it and others by.

        Raises:
            Unavailable: they cannot be read, or made.
        """
        try:
            return await to_thread.run_sync(_secrets, self._secret)
        except OSError as error:
            raise Unavailable(
                f"the secrets of the NATS server: {error.strerror}", where=str(self._secret)
            ) from error

    async def run(self) -> None:
        """Follow the trust book; a task. At the start once, for what was missed."""
        while True:
            self._changed.clear()
            try:
                settings = await to_thread.run_sync(self._read)
                if settings is not None:
                    await self.write(settings)
            except (OSError, Unavailable) as error:
                _log.error("nats.config_failed", extra={"reason": str(error)})
            await self._changed.wait()

    async def use(self, settings: NatsSettings) -> bool:
        """Write the file as the owner asks, and remember how; False when it was there already.

        Raises:
            InvalidInput: as `NatsSettings.check`.
            Unavailable: it cannot be written there.
        """
        await to_thread.run_sync(settings.check)
        is_new = await self.write(settings)
        memory = msgspec.json.encode(settings)
        return await to_thread.run_sync(_replace, self._memory, memory) or is_new

    async def write(self, settings: NatsSettings) -> bool:
        """Write the file if it would say something new, and have the server read it again.

        Raises:
            Unavailable: it cannot be written there.
        """
        text = render(settings, self.users(), await self.secrets())
        directory = Path(settings.out)
        self.path, self.settings = directory / FILE, settings
        for changed in self._watchers:
            changed()
        try:
            if not await to_thread.run_sync(_replace, directory / FILE, text.encode()):
                return False
        except OSError as error:
            raise Unavailable(
                f"the configuration cannot be written: {error.strerror}", where=settings.out
            ) from error
        await to_thread.run_sync(_tell_server, directory)
        return True

    def users(self) -> tuple[NatsUser, ...]:
        """Who may come in, this node first."""
        peers = [
            NatsUser(peer.name, peer.node_key, is_own=peer.relation == "own")
            for peer in sorted(self._book.peers(), key=lambda peer: peer.name)
        ]
        return (NatsUser(self._name, self._me, is_home=True), *peers)

    def _read(self) -> NatsSettings | None:
        try:
            return msgspec.json.decode(self._memory.read_bytes(), type=NatsSettings)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise Unavailable(f"{self._memory} is damaged: {error}") from error


def render(settings: NatsSettings, users: Sequence[NatsUser], secrets: NatsSecrets) -> str:
    """The file's text. The first of `users` is this node."""
    directory, name = Path(settings.out), users[0].name
    follows = "a device is paired or forgotten" if settings.callout is None else "it has to change"
    lines = [
        f"# The NATS server of {name}'s devices. `orvalho nats config` wrote it, and the daemon",
        f"# writes it again when {follows}: what is changed here is lost.",
        f"listen: {_quoted(settings.listen)}",
        f"server_name: {_quoted(f'orvalho-{name}')}",
        f"pid_file: {_quoted(str(directory / _PID_FILE))}",
        f"jetstream {{ store_dir: {_quoted(str(directory / 'jetstream'))} }}",
    ]
    tls = ""
    if settings.tls is not None:
        certificate, key = (_quoted(str(Path(settings.tls) / each)) for each in _CERTIFICATE)
        tls = f"tls {{ cert_file: {certificate}, key_file: {key} }}"
        lines.append(tls)
    lines += _leafnodes(settings, tls)
    keys = secrets.keys
    if settings.callout is not None:
        lines += [
            f"accounts {{ SYS {{ users: [ {{ nkey: {keys.user} }} ] }} }}",
            "system_account: SYS",
        ]
    lines += ["authorization {", "  users: ["]
    # Those that the server asks about need not stand here.
    for user in users if settings.callout is None else users[:1]:
        lines += [
            f"    # {user.name}",
            *_user(f"nkey: {user.nkey}", rights_of(user, settings.stream)),
        ]
    if settings.leaf_hub is not None:
        who = f"user: {LEAF_USER}, password: {secrets.leaf_password}"
        kind = ', allowed_connection_types: ["LEAFNODE"]'
        lines += ["    # servers that lean on this one", *_user(who + kind, LEAF_RIGHTS)]
    lines.append("  ]")
    if settings.callout is not None:
        known = [keys.user, users[0].nkey, *([LEAF_USER] if settings.leaf_hub else [])]
        lines += [
            "  auth_callout {",
            f"    issuer: {keys.account}, account: SYS, xkey: {keys.curve}",
            f"    auth_users: [ {', '.join(known)} ]",
            "  }",
        ]
    return "\n".join([*lines, "}", ""])


def _leafnodes(settings: NatsSettings, tls: str) -> list[str]:
    parts = []
    if settings.leaf is not None:
        parts.append(f"remotes: [ {{ url: {_quoted(settings.leaf)} }} ]")
    if settings.leaf_hub is not None:
        parts.append(f"listen: {_quoted(settings.leaf_hub)}")
        if tls:
            parts.append(tls)
    return [f"leafnodes {{ {', '.join(parts)} }}"] if parts else []


def _user(who: str, rights: Rights) -> list[str]:
    return [
        f"    {{ {who}, permissions: {{",
        f"      publish: {{ allow: {json.dumps(rights.publish)} }}",
        f"      subscribe: {{ allow: {json.dumps(rights.subscribe)} }}",
        "    } }",
    ]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _replace(file: Path, content: bytes) -> bool:
    """Write a file whole or not at all; False when it says so already."""
    if file.exists() and file.read_bytes() == content:
        return False
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f".{file.name}~")
    draft.unlink(missing_ok=True)
    # It may hold the password of a server to lean on.
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
        written.write(content)
        written.flush()
        os.fsync(written.fileno())
    draft.replace(file)
    return True


def _secrets(file: Path) -> NatsSecrets:
    if not file.exists():
        _replace(file, os.urandom(SECRET_BYTES))
    return NatsSecrets(file.read_bytes())


def _tell_server(directory: Path) -> None:
    """SIGHUP has a server read its file again: it drops who is gone, and nobody else."""
    try:
        pid = int((directory / _PID_FILE).read_text())
        # A number that was given to another program since must not be signalled.
        if b"nats-server" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError):
        _log.info("nats.no_server_to_tell", extra={"directory": str(directory)})
    else:
        _log.info("nats.server_told", extra={"pid": pid})
