"""What the daemon's own program tells of a home that no daemon serves, in a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from orvalho.control.client import error_of
from orvalho.control.message import Message
from orvalho.control.messages import Failed
from orvalho.control.start import daemon_command
from orvalho.errors import Unavailable

T = TypeVar("T", bound=Message)

_LIMIT_S: Final = 60.0


def ask_offline(
    environ: Mapping[str, str], home: str | None, verb: str, kind: type[T], *arguments: str
) -> T:
    """Run `verb` of the daemon's program on a home; its one answer, as the daemon would give it.

    Raises:
        Unavailable: the program broke; `detail` has the end of what it wrote.
        OrvalhoError: what it answered with.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            daemon_command(home, verb, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(environ),
            timeout=_LIMIT_S,
            check=False,
        )
        answer: T | Failed = msgspec.json.decode(done.stdout, type=kind | Failed)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"looking at the home took more than {_LIMIT_S:g} s.") from error
    except msgspec.DecodeError as error:
        last = done.stderr.decode(errors="replace").splitlines()[-5:]
        raise Unavailable(
            f"looking at the home broke off with status {done.returncode}.",
            detail="\n".join(last) or None,
        ) from error
    if isinstance(answer, Failed):
        raise error_of(answer)
    return answer
