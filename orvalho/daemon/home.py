"""Where the files of one home lie: under one directory, or where XDG says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orvalho.control.client import socket_path


@dataclass(frozen=True, slots=True)
class Home:
    """The directories of one node (XDG Base Directory Specification 0.8, or one `--home`).

    `config` is edited by hand and fit for git; `state` holds keys, database and log; `contexts`
    the trees; `cache` may be deleted at any time. `root` is the `--home`, or None under XDG.
    """

    root: Path | None
    config: Path
    state: Path
    data: Path
    cache: Path
    socket: Path

    @property
    def keys(self) -> Path:
        return self.state / "keys"

    @property
    def database(self) -> Path:
        return self.state / "orvalho.db"

    @property
    def log(self) -> Path:
        return self.state / "log.jsonl"

    @property
    def contexts(self) -> Path:
        return self.data / "contexts"

    @property
    def contents(self) -> Path:
        return self.data / "contents"

    @property
    def libraries(self) -> Path:
        return self.data / "libraries"

    @property
    def policy(self) -> Path:
        return self.config / "policy"

    @property
    def groups(self) -> Path:
        return self.config / "groups"

    @property
    def is_initialised(self) -> bool:
        return (self.keys / "seed").exists()


def find_home(environ: Mapping[str, str], root: str | None) -> Home:
    """The home that a flag (`root`) or the environment names; nothing is created."""
    root = root or environ.get("ORVALHO_HOME") or None
    socket = Path(socket_path(environ, root))
    if root is not None:
        top = Path(root).expanduser().absolute()
        return Home(top, top / "config", top / "state", top / "data", top / "cache", socket)
    user = Path(environ.get("HOME") or "~").expanduser()

    def place(variable: str, default: str) -> Path:
        # The specification has relative paths ignored.
        value = environ.get(variable, "")
        return (Path(value) if value.startswith("/") else user / default) / "orvalho"

    return Home(
        None,
        place("XDG_CONFIG_HOME", ".config"),
        place("XDG_STATE_HOME", ".local/state"),
        place("XDG_DATA_HOME", ".local/share"),
        place("XDG_CACHE_HOME", ".cache"),
        socket,
    )
