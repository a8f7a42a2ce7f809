"""`orvalho config`: the settings, and where each comes from."""

from __future__ import annotations

from pathlib import Path

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.cli.written import show_written, write_new
from orvalho.control.extract import ExampleFiles
from orvalho.control.messages import ConfigReply, ConfigSet, ConfigShow, ConfigUnset, Note
from orvalho.control.offline import ask_offline
from orvalho.errors import InvalidInput, NotFound


@click.group(
    "config",
    cls=Noun,
    examples=(
        "orvalho config show",
        "orvalho config show --origin",
        "orvalho config set limits.wall 60s",
        "orvalho config unset limits.wall",
        "orvalho config extract example-config",
    ),
)
def command() -> None:
    """Settings, and where each comes from. A flag wins over ORVALHO_*, that over conf.d/*.toml,
    that over config.toml, that over the default."""


@command.command(
    "show",
    cls=Verb,
    examples=(
        "orvalho config show",
        "orvalho config show quota --origin",
        "orvalho config show limits.wall --json",
    ),
)
@click.argument("key", metavar="[KEY]", required=False)
@click.option("--origin", is_flag=True, help="Also say where each value comes from.")
@click.pass_obj
def show(session: Session, key: str | None, origin: bool) -> None:
    """Every setting and its value, or KEY alone, or those of a section: quota."""
    with session.connect() as client:
        reply = client.ask(ConfigShow(), ConfigReply)
    if key is not None:
        meant = tuple(each for each in reply.settings if f"{each.key}.".startswith(f"{key}."))
        if not meant:
            raise NotFound(f'there is no setting "{key}"', hint="orvalho config show")
        reply = ConfigReply(settings=meant)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    columns = 3 if origin else 2
    rows = [(setting.key, setting.value, setting.origin)[:columns] for setting in reply.settings]
    session.screen.table(("setting", "value", "origin")[:columns], rows)


@command.command(
    "set",
    cls=Verb,
    examples=(
        "orvalho config set limits.wall 60s",
        "orvalho config set workers.contexts_per_worker 1",
        """orvalho config set listen '["ws://0.0.0.0:4455"]'""",
    ),
)
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="VALUE")
@click.pass_obj
def set_(session: Session, key: str, value: str) -> None:
    """Write a setting (a TOML value, or plain text) to config.toml and use it at once. A daemon
    that does not start for a wrong setting is no hindrance."""
    try:
        client = session.connect()
    except InvalidInput:
        # It does not start for what stands in its files.
        session.tell(ask_offline(session.environ, session.place, "config-set", Note, key, value))
        return
    with client:
        session.tell(client.ask(ConfigSet(key=key, value=value), Note))


@command.command(
    "unset",
    cls=Verb,
    examples=(
        "orvalho config unset limits.wall",
        "orvalho config unset node.labels",
        "orvalho config unset quota.groups.guests",
    ),
)
@click.argument("key", metavar="KEY")
@click.pass_obj
def unset(session: Session, key: str) -> None:
    """Take a setting out of config.toml, so that it is its default again, or what stands elsewhere.
    A key that is only a typing error, for which no daemon starts, is taken out as well."""
    try:
        client = session.connect()
    except InvalidInput:
        session.tell(ask_offline(session.environ, session.place, "config-unset", Note, key))
        return
    with client:
        session.tell(client.ask(ConfigUnset(key=key), Note))


@command.command(
    "extract",
    cls=Verb,
    examples=(
        "orvalho config extract example-config",
        "orvalho config extract .",
        "orvalho config extract example-config --json",
    ),
)
@click.argument("folder", metavar="DIR")
@click.pass_obj
def extract(session: Session, folder: str) -> None:
    """Write an example configuration to DIR: config.toml with every setting and its default, the
    rules of a fresh home, model.conf. A file that is there already is left as it is."""
    found = ask_offline(session.environ, session.place, "config-example", ExampleFiles)
    show_written(
        session, [write_new(Path(folder) / each.path, each.text.encode()) for each in found.files]
    )
