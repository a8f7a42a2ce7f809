"""What we do when the owner looks at a setting, or sets one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from orvalho.control import messages as control
from orvalho.daemon import config as configuration
from orvalho.daemon import config_unset
from orvalho.daemon.config import LoadedConfig
from orvalho.daemon.house import House
from orvalho.errors import InvalidInput

Replies = AsyncIterator[control.Reply]

# What is bound to a socket or to certificates already handed out.
_AFTER_RESTART = ("name", "listen")


class ConfigOperations:
    """`orvalho config ...`. `load` reads the files again, `use` puts settings into force."""

    def __init__(
        self, house: House, load: Callable[[], LoadedConfig], use: Callable[[LoadedConfig], None]
    ) -> None:
        self._house = house
        self._load = load
        self._use = use

    async def show(self, _request: control.ConfigShow) -> Replies:
        yield control.ConfigReply(
            settings=tuple(
                control.Setting(key=key, value=value, origin=origin)
                for key, value, origin in self._house.settings.settings
            )
        )

    async def set(self, request: control.ConfigSet) -> Replies:
        directory = self._house.home.config
        file = directory / "config.toml"
        before = file.read_text() if file.exists() else ""
        if not configuration.set_value(directory, request.key, request.value):
            yield control.Note(
                text=configuration.already(request.key, request.value), changed=False
            )
            return
        try:
            loaded = self._load()
        except InvalidInput as error:
            file.write_text(before)
            # The line that was wrong has gone with what was written.
            raise InvalidInput(
                error.message, where=f"{request.key} = {request.value}", hint=error.hint
            ) from error
        self._use(loaded)
        value, origin = next((v, o) for k, v, o in loaded.settings if k == request.key)
        text = f"{request.key} = {value}"
        if not origin.startswith("config.toml"):
            text += f"\n  but {origin} is stronger: what config.toml says is not used"
        elif request.key in _AFTER_RESTART:
            text += "\n  used from the next start on: orvalho daemon stop"
        yield control.Note(text=text)

    async def unset(self, request: control.ConfigUnset) -> Replies:
        directory = self._house.home.config
        file = directory / "config.toml"
        before = file.read_text() if file.exists() else ""
        if not config_unset.unset_value(directory, request.key):
            yield control.Note(text=config_unset.already_unset(request.key), changed=False)
            return
        try:
            loaded = self._load()
        except InvalidInput as error:
            file.write_text(before)
            raise config_unset.needed_by_another(error, request.key) from error
        self._use(loaded)
        text = config_unset.unset_words(request.key, loaded)
        if request.key in _AFTER_RESTART:
            text += "\n  used from the next start on: orvalho daemon stop"
        yield control.Note(text=text)
