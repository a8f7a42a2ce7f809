"""Write what is made from the command tree and the messages: docs/cli.md and the JSON Schemas.

`python packaging/gen_docs.py`; a test checks that both are current.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import click

from orvalho.cli.schema import names, schema
from orvalho.cli.tree import root

TOP = Path(__file__).parent.parent
CLI_PAGE = TOP / "docs" / "cli.md"
SCHEMA_DIRECTORY = TOP / "orvalho" / "cli" / "schemas"

_HEAD = """\
# Commands

Made from `orvalho --help` by `packaging/gen_docs.py`.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused by a rule, 4 not found or not reachable,
5 a limit was hit, 6 a key or signature did not hold, 7 the run is queued and `--wait` was not
given, or a device waits for approval, 130 Ctrl-C. Data goes to standard output, progress and errors
to standard error. `--json` prints one object with a `format_version` (a minor version only adds
fields), or one object a line for streams (`type`, `time`, `level`, `message`); the schemas are in
`orvalho/cli/schemas/`.
"""


def cli_page() -> str:
    """docs/cli.md: the help page of each command, in the order of `orvalho --help`."""
    return _HEAD + "".join(_pages(root(), None, "orvalho"))


def _pages(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    ctx = click.Context(
        command, parent=parent, info_name=name, terminal_width=96, **command.context_settings
    )
    yield f"\n## {ctx.command_path}\n\n```\n{command.get_help(ctx)}\n```\n"
    if isinstance(command, click.Group):
        for word in command.list_commands(ctx):
            child = command.get_command(ctx, word)
            if child is not None and not child.hidden:
                yield from _pages(child, ctx, word)


def schema_files() -> dict[str, str]:
    """File name -> content, for each kind of JSON output."""
    return {
        f"{name}.json": json.dumps(schema(name), indent=2, sort_keys=True) + "\n"
        for name in names()
    }


def main() -> None:
    CLI_PAGE.write_text(cli_page())
    for file, content in schema_files().items():
        (SCHEMA_DIRECTORY / file).write_text(content)


if __name__ == "__main__":
    main()
