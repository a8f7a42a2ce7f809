"""What one invocation knows: the home it is about, and how it wants its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orvalho.cli.networks import Networks
from orvalho.cli.output import Screen
from orvalho.control.client import Client, open_client, socket_path

if TYPE_CHECKING:
    from orvalho.control.messages import Note


class Session:
    """The global options, and the way to the daemon they name."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.screen = Screen(environ)

    @property
    def home(self) -> str | None:
        """The `--home` that was given; what to type next names it again."""
        return self.screen.home

    @home.setter
    def home(self, directory: str | None) -> None:
        self.screen.home = directory

    @property
    def place(self) -> str | None:
        """The home that this is about: a flag's, else the environment's (None: the client finds
        it there), else that of the network in use."""
        if self.home is not None or self.environ.get("ORVALHO_HOME"):
            return self.home
        networks = Networks(self.environ)
        return networks.home(networks.current)

    def connect(self) -> Client:
        """A client of the daemon, which is started when it does not run."""
        return open_client(self.environ, self.place)

    def connect_running(self, timeout_s: float | None = None) -> Client:
        """The same, but Unavailable when it does not run."""
        return Client(socket_path(self.environ, self.place), timeout_s)

    def tell(self, note: Note) -> None:
        """The daemon's sentence about what it did."""
        if self.screen.as_json:
            self.screen.document({"text": note.text, "changed": note.changed})
        elif not self.screen.quiet:
            self.screen.line(note.text)
