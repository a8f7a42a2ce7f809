"""The command `orvalho`: an argument vector in, an exit status out.

The commands that are typed most, and the one that the shell calls for each Tab, are found here
by hand: click alone takes longer to import than they take to run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from orvalho.cli.session import Session

_INTERRUPTED: Final = 130


def entry() -> NoReturn:
    """Where the installed command and `python -m orvalho` begin."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what `argv` (without the program's name) says; answers the exit status."""
    if list(argv) == ["--version"]:
        from orvalho import __version__  # noqa: PLC0415

        sys.stdout.write(f"orvalho {__version__}\n")
        return 0
    from orvalho.cli.session import Session  # noqa: PLC0415 - not for --version

    session = Session(environ)
    try:
        return _guarded(session, lambda: _dispatch(session, argv))
    finally:
        _flush()


def _dispatch(session: Session, argv: Sequence[str]) -> int:
    verb = _fast_verb(session, argv)
    if verb == "status":
        from orvalho.cli.status import show_status  # noqa: PLC0415

        with session.connect() as client:
            show_status(session, client)
        return 0
    if verb == "complete":
        from orvalho.cli.complete import show_completions  # noqa: PLC0415

        show_completions(session, argv[1], argv[2])
        return 0
    from orvalho.cli.tree import run_tree  # noqa: PLC0415 - click, for everything else

    return run_tree(session, argv)


def _fast_verb(session: Session, argv: Sequence[str]) -> str | None:
    """The verb, when the fast path can do all that `argv` says; its options are then set."""
    if len(argv) == 3 and argv[0] == "complete":
        return "complete"
    words = [word for word in argv if word != "--json"]
    home: str | None = None
    if "--home" in words[:-1]:
        at = words.index("--home")
        home = words[at + 1]
        del words[at : at + 2]
    if words != ["status"]:
        return None
    session.home = home
    session.screen.as_json = "--json" in argv
    return "status"


def _guarded(session: Session, work: Callable[[], int]) -> int:
    from orvalho.errors import OrvalhoError  # noqa: PLC0415

    try:
        return work()
    except OrvalhoError as error:
        session.screen.traceback()
        session.screen.error(error)
        return error.exit_status
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nobody is left to tell.
        return 1
    except Exception as error:  # noqa: BLE001 - the top of every command
        from orvalho.control.client import DaemonError  # noqa: PLC0415

        session.screen.traceback()
        why = f"a bug in the command line: {type(error).__name__}: {error}."
        session.screen.error(DaemonError(why, hint="the same command with -v shows where"))
        return 1


def _flush() -> None:
    """Write out what is left; the interpreter must find nothing to complain about at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
