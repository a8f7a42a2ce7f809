"""Named networks: which home a command is about when none is given. `orvalho use` writes them.

They lie in `networks.toml` in the user's configuration directory: `current = "office"`, and a
table `homes` with a directory a name. `default` is the home that is used without any of this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orvalho.errors import InvalidInput, NotFound

DEFAULT: Final = "default"


class Networks:
    """The file, as it was read. On the path of the fastest commands: TOML is imported only when
    there is a file."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises:
        InvalidInput: the file is none of ours.
        """
        config = environ.get("XDG_CONFIG_HOME", "")
        if not config.startswith("/"):  # the specification has relative paths ignored
            config = str(Path(environ.get("HOME") or "~").expanduser() / ".config")
        self.file: Final = Path(config, "orvalho", "networks.toml")
        self.current = DEFAULT
        self.homes: dict[str, str] = {}
        try:
            text = self.file.read_text()
        except OSError:
            return
        import tomllib  # noqa: PLC0415 - only where networks are named

        try:
            read = tomllib.loads(text)
            self.homes = {str(name): str(home) for name, home in read.get("homes", {}).items()}
            self.current = str(read.get("current", DEFAULT))
        except (tomllib.TOMLDecodeError, AttributeError) as error:
            raise InvalidInput(
                f"networks.toml cannot be read: {error}",
                where=str(self.file),
                hint=f"edit {self.file}",
            ) from error

    def home(self, name: str) -> str | None:
        """The home of a network; None for the default one.

        Raises:
            NotFound: no network is called so.
        """
        if name == DEFAULT:
            return None
        if name not in self.homes:
            raise NotFound(
                f'no network is called "{name}"', hint=_near(name, self.homes) or "orvalho use"
            )
        return self.homes[name]

    def use(self, name: str) -> bool:
        """Make it the current one from now on; False when it is.

        Raises:
            NotFound: no network is called so.
        """
        self.home(name)
        changed = self.current != name
        self.current = name
        self._write()
        return changed

    def add(self, name: str, home: str) -> bool:
        """Name a home; False when it has that name already."""
        import re  # noqa: PLC0415 - only here

        if not re.fullmatch(r"[a-z0-9](-?[a-z0-9])*", name) or name in (DEFAULT, "add", "rm"):
            raise InvalidInput(
                f'"{name}" cannot name a network: a-z and 0-9, with single dashes between them'
            )
        directory = str(Path(home).expanduser().absolute())
        changed = self.homes.get(name) != directory
        self.homes[name] = directory
        self._write()
        return changed

    def remove(self, name: str) -> None:
        """Forget the name; the home stays as it is.

        Raises:
            NotFound: no network is called so.
        """
        self.home(name)
        self.homes.pop(name, None)
        if self.current == name:
            self.current = DEFAULT
        self._write()

    def _write(self) -> None:
        # A JSON text is a TOML text as well (TOML 1.0, basic strings).
        lines = [f"current = {json.dumps(self.current)}", "", "[homes]"]
        lines += [f"{name} = {json.dumps(home)}" for name, home in sorted(self.homes.items())]
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.file.with_name(".networks.toml~")
        draft.write_text("\n".join(lines) + "\n")
        draft.replace(self.file)


def _near(name: str, known: Mapping[str, str]) -> str | None:
    import difflib  # noqa: PLC0415 - only for a mistake

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else None
