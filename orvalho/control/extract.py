"""The files of an example configuration, as the daemon's own program tells them."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class ExampleFile(Message, frozen=True, kw_only=True):
    """`path` is relative, with `/` between its names."""

    path: str
    text: str


class ExampleFiles(Message, frozen=True, kw_only=True, tag=tag):
    """Every file of an example configuration, as a home holds them under `config/`."""

    files: tuple[ExampleFile, ...]
