"""The daemon's process: its command line, its lock, its signals."""

from __future__ import annotations

import argparse
import fcntl
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import anyio
import msgspec

from orvalho.daemon import config as configuration
from orvalho.daemon.home import Home, find_home
from orvalho.daemon.initialise import initialise
from orvalho.errors import Conflict, NotFound, OrvalhoError
from orvalho.store import CommitHook
from orvalho.telemetry import log

_STOPPING_S: Final = 10.0
# The collector's own number is 700, of which a script makes some hundred.
_YOUNG_OBJECTS: Final = 10_000
_LOOKS: Final = ("doctor", "bugreport")

_log = logging.getLogger("orvalho.daemon")


def main(argv: Sequence[str]) -> int:
    """`init` makes a home; `run` (the default) serves it until told to stop; `doctor`, `bugreport`,
    `config-set` and `config-unset` are for one that may not start, and answer as the daemon would;
    `config-example` needs none, `policy` handles files of rules, and `wasm` looks at binaries."""
    arguments = _parser().parse_args(argv)
    home = find_home(os.environ, arguments.home)
    try:
        if arguments.verb == "init":
            phrase = sys.stdin.read() if arguments.restore else None
            for line in initialise(home, arguments.name, arguments.listen, os.environ, phrase):
                sys.stdout.write(line + "\n")
            return 0
        if arguments.verb == "config-example":
            from orvalho.daemon.config_example import example_files  # noqa: PLC0415

            sys.stdout.buffer.write(msgspec.json.encode(example_files()))
            return 0
        if arguments.verb == "config-set":
            sys.stdout.buffer.write(_set(home, arguments.key, arguments.value))
            return 0
        if arguments.verb == "config-unset":
            sys.stdout.buffer.write(_set(home, arguments.key, None))
            return 0
        if arguments.verb == "policy":
            sys.stdout.buffer.write(_policy(home, arguments.task, arguments.words))
            return 0
        if arguments.verb in _LOOKS:
            sys.stdout.buffer.write(_looked_at(home, arguments.verb))
            return 0
        if arguments.verb == "wasm":
            # Here, since `run` needs none of it.
            from orvalho.daemon.binaries import describe  # noqa: PLC0415

            sys.stdout.buffer.write(msgspec.json.encode(describe(arguments.path)))
            return 0
        return serve(home, foreground=getattr(arguments, "foreground", False))
    except OrvalhoError as error:
        sys.stderr.write(f"error[{error.code}]: {error}\n")
        if error.where:
            sys.stderr.write(f"  where {error.where}\n")
        if error.hint:
            sys.stderr.write(f"  try   {error.hint}\n")
        return error.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="orvalho-daemon")
    parser.add_argument("--home")
    verbs = parser.add_subparsers(dest="verb")
    run_parser = verbs.add_parser("run")
    run_parser.add_argument("--foreground", action="store_true", help="log words to the terminal")
    init_parser = verbs.add_parser("init")
    init_parser.add_argument("--name")
    init_parser.add_argument("--listen")
    init_parser.add_argument("--restore", action="store_true", help="the phrase comes on stdin")
    set_parser = verbs.add_parser("config-set")
    set_parser.add_argument("key")
    set_parser.add_argument("value")
    unset_parser = verbs.add_parser("config-unset")
    unset_parser.add_argument("key")
    looks = [verbs.add_parser(name) for name in (*_LOOKS, "config-example")]
    policy_parser = verbs.add_parser("policy")
    policy_parser.add_argument("task", choices=("test", "fmt", "fmt-check", "draft", "install"))
    policy_parser.add_argument("words", nargs="*")
    wasm_parser = verbs.add_parser("wasm")
    wasm_parser.add_argument("path")
    all_parsers = (run_parser, init_parser, set_parser, unset_parser, wasm_parser, policy_parser)
    for sub in (*all_parsers, *looks):
        sub.add_argument("--home", default=argparse.SUPPRESS)
    return parser


def _set(home: Home, key: str, value: str | None) -> bytes:
    from orvalho.control.messages import Failed, Note  # noqa: PLC0415
    from orvalho.daemon.config_unset import unset_offline  # noqa: PLC0415

    try:
        if value is None:
            text = unset_offline(home.config, os.environ, key)
        else:
            text = configuration.set_offline(home.config, os.environ, key, value)
    except OrvalhoError as error:
        return msgspec.json.encode(Failed(**error.parts()))
    return msgspec.json.encode(Note(text=text))


def _policy(home: Home, task: str, words: Sequence[str]) -> bytes:
    # Here, since `run` needs none of it.
    from orvalho.control.messages import Failed  # noqa: PLC0415
    from orvalho.daemon.policy_files import answer  # noqa: PLC0415

    try:
        return msgspec.json.encode(answer(home, task, words))
    except OrvalhoError as error:
        return msgspec.json.encode(Failed(**error.parts()))


def _looked_at(home: Home, verb: str) -> bytes:
    # Here, since `run` needs none of it.
    from orvalho.control.messages import DoctorReply  # noqa: PLC0415
    from orvalho.daemon.offline import check  # noqa: PLC0415
    from orvalho.daemon.report import named_in, report  # noqa: PLC0415

    findings = tuple(check(home, os.environ))
    if verb == "doctor":
        return msgspec.json.encode(DoctorReply(findings=findings))
    named = named_in(home)
    return msgspec.json.encode(report(home, os.environ, named, findings=findings, live={}))


def serve(home: Home, *, foreground: bool, on_commit: CommitHook | None = None) -> int:
    """Run the daemon of `home` until SIGTERM, SIGINT or a stop request."""
    if not home.is_initialised:
        raise NotFound(
            "there is no Orvalho home here yet", where=str(home.state), hint="orvalho init"
        )
    # Everything a home holds is its owner's alone; files that need more say so themselves.
    os.umask(0o077)
    loaded = configuration.load(home.config, os.environ, {})
    log.set_up(loaded.config.log.level, None if foreground else home.log)
    with _lock(home):
        while anyio.run(_serve, home, loaded, on_commit, backend_options={"use_uvloop": True}):
            loaded = configuration.load(home.config, os.environ, {})
    return 0


async def _serve(
    home: Home, loaded: configuration.LoadedConfig, on_commit: CommitHook | None
) -> bool:
    """Whether it is to begin anew."""
    # Here, since `init` needs none of it: every room is imported by it.
    from orvalho.daemon.wiring import open_daemon  # noqa: PLC0415

    try:
        async with open_daemon(home, loaded, os.environ, on_commit) as daemon:
            _settle_collector()
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_stop_on_signal, signals, daemon.stop)
                    await daemon.until_stopped()
                    tasks.cancel_scope.cancel()
        _log.info("daemon.stopped")
        return daemon.is_to_restart
    except* OrvalhoError as group:
        for error in _leaves(group):
            _log.error("daemon.failed", extra={"code": error.code, "why": str(error)})
        raise _leaves(group)[0] from group


def _settle_collector() -> None:
    """What is there now stays, and need not be looked at again; what comes later is gone before
    the collector sees it, mostly, so it may look ten times less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


async def _stop_on_signal(signals, stop) -> None:  # type: ignore[no-untyped-def]
    async for _ in signals:
        stop()


def _leaves(group: BaseExceptionGroup[OrvalhoError]) -> list[OrvalhoError]:
    found: list[OrvalhoError] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found += _leaves(error)
        else:
            found.append(error)
    return found


@contextmanager
def _lock(home: Home) -> Iterator[None]:
    """One daemon a home: the lock goes with the process, however it ends."""
    handle = os.open(home.state / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _take_lock(handle, home)
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


def _take_lock(handle: int, home: Home) -> None:
    """A daemon that is stopping closes its socket first and its database last: wait for it."""
    deadline = time.monotonic() + _STOPPING_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if home.socket.exists() or time.monotonic() > deadline:
                raise Conflict(
                    "a daemon serves this home already",
                    where=str(home.state / "lock"),
                    hint="orvalho daemon status",
                ) from error
        time.sleep(0.05)
