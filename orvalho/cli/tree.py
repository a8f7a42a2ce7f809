"""The tree of commands: nouns, their verbs, and what all of them have in common.

A command module under `commands/` is imported when its noun is used, and defines `command`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from orvalho import __version__
from orvalho.cli.networks import Networks
from orvalho.cli.session import Session
from orvalho.errors import InvalidInput

_WORDS: Final = (
    *(
        "init",
        "pair",
        "status",
        "ping",
        "doctor",
        "nodes",
        "netcheck",
        "bench",
        "metrics",
        "bugreport",
    ),
    *("ask", "top", "why", "trace", "replay", "resolve", "repl", "version"),
    *(
        "script",
        "inbox",
        "peer",
        "file",
        "ctx",
        "group",
        "policy",
        "worker",
        "config",
        "audit",
        "daemon",
    ),
    "logic",
    *("node", "key", "transports", "depot", "nats", "examples"),
    *("wasi", "lib", "libs", "service", "services"),
    *("quota", "usage", "events"),
    "grant",
    "secret",
    *("use", "completion", "complete"),
)

_USAGE_STATUS: Final = 2
# What click says of a noun without a verb.
_MISSING: Final = "Missing command."


def run_tree(session: Session, argv: Sequence[str]) -> int:
    """Parse `argv`, run its command, answer the exit status.

    Raises:
        InvalidInput: wrong usage.
    """
    command = root()
    try:
        with command.make_context("orvalho", list(argv), obj=session) as ctx:
            status = command.invoke(ctx)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return _USAGE_STATUS
    except click.UsageError as error:
        if error.message == _MISSING and error.ctx and "--json" not in argv:
            # Options alone ask for nothing: the same page as for no words at all.
            session.screen.notice(error.ctx.get_help())
            return _USAGE_STATUS
        session.screen.as_json = "--json" in argv
        path = error.ctx.command_path if error.ctx else "orvalho"
        raise InvalidInput(error.format_message(), hint=f"{path} --help") from error
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return status if isinstance(status, int) else 0


def root() -> Root:
    """The whole tree."""
    return Root(
        name="orvalho",
        help="Run signed scripts on the devices you own, each under its owner's rules.",
        examples=(
            "orvalho init --name laptop",
            "orvalho status",
            "orvalho script send peer@phone2 job.js",
        ),
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_show_version,
                help="Print the version and exit.",
            )
        ],
    )


class _Page(click.Command):
    """Help with examples before the flags, and the options that every command takes."""

    def __init__(self, *args: Any, examples: Sequence[str], **attributes: Any) -> None:
        attributes.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)
        self.params = [*self.params, *_global_options()]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        with formatter.section("Examples"):
            for example in self.examples:
                # Not write_text: an example that is wrapped cannot be pasted.
                formatter.write(" " * formatter.current_indent + example + "\n")
        self.format_options(ctx, formatter)


class Verb(_Page):
    """A command that does something."""


class Noun(_Page, click.Group):
    """A word with verbs under it."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        is_alone = attributes.get("invoke_without_command", False)
        super().__init__(*args, no_args_is_help=not is_alone, **attributes)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-"):
            known = [name for name in self.list_commands(ctx) if not _is_hidden(self, ctx, name)]
            near = difflib.get_close_matches(word, known, n=1)
            guess = f', did you mean "{near[0]}"?' if near else "."
            raise click.UsageError(f'{ctx.command_path} has no "{word}"{guess}', ctx)
        return super().resolve_command(ctx, args)


class Root(Noun):
    """The first word, by which a module is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_WORDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _WORDS:
            return None
        module = importlib.import_module(f"orvalho.cli.commands.{cmd_name}")
        command: click.Command = module.command
        return command


def _is_hidden(noun: click.Group, ctx: click.Context, name: str) -> bool:
    command = noun.get_command(ctx, name)
    return command is None or command.hidden


def _show_version(ctx: click.Context, _option: click.Parameter, value: object) -> None:
    if value:
        session: Session = ctx.obj
        session.screen.line(f"orvalho {__version__}")
        ctx.exit()


def _global_options() -> list[click.Option]:
    return [
        click.Option(
            ["--home"],
            metavar="DIR",
            expose_value=False,
            callback=_apply(_set_home),
            help="Keep all of this node in one directory (or ORVALHO_HOME).",
        ),
        click.Option(
            ["--network"],
            metavar="NAME",
            expose_value=False,
            callback=_apply(_set_network),
            help="The home that `orvalho use` knows by this name.",
        ),
        _flag("--json", help="Print JSON.", apply=_set_json),
        _flag("-v", "--verbose", help="Show more, and tracebacks.", apply=_set_verbose),
        _flag("-q", "--quiet", help="Show results and errors only.", apply=_set_quiet),
    ]


def _flag(*names: str, help: str, apply: Callable[[Session, Any], None]) -> click.Option:  # noqa: A002
    return click.Option(
        list(names), is_flag=True, expose_value=False, callback=_apply(apply), help=help
    )


def _apply(
    change: Callable[[Session, Any], None],
) -> Callable[[click.Context, click.Parameter, Any], None]:
    """An option may stand before the noun or after the verb: what is not given changes nothing."""

    def callback(ctx: click.Context, _option: click.Parameter, value: Any) -> None:
        if value and isinstance(ctx.obj, Session):
            change(ctx.obj, value)

    return callback


def _set_home(session: Session, directory: str) -> None:
    session.home = directory


def _set_network(session: Session, name: str) -> None:
    if session.home is None:  # --home says it more exactly
        session.home = Networks(session.environ).home(name)


def _set_json(session: Session, _: bool) -> None:
    session.screen.as_json = True


def _set_verbose(session: Session, _: bool) -> None:
    session.screen.verbose = True


def _set_quiet(session: Session, _: bool) -> None:
    session.screen.quiet = True
