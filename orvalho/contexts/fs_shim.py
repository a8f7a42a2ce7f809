"""The one door to `fs` (PyFilesystem2), whose vocabulary every tree speaks.

fs 2.4.16 asks `pkg_resources` for two things at import. Setuptools 82 no longer has that module
and earlier ones warn about it, so a stand-in of the two is lent for the length of the import.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any


def _declare_namespace(name: str) -> None:
    """Namespace packages need no declaration since Python 3.3."""


def _iter_entry_points(group: str, name: str | None = None) -> Iterator[EntryPoint]:
    found = entry_points(group=group)
    return iter(found if name is None else found.select(name=name))


def _import_fs() -> None:
    lent: Any = types.ModuleType("pkg_resources")
    lent.declare_namespace = _declare_namespace
    lent.iter_entry_points = _iter_entry_points
    before = {name: sys.modules[name] for name in ("pkg_resources",) if name in sys.modules}
    sys.modules["pkg_resources"] = lent
    try:
        importlib.import_module("fs")
    finally:
        del sys.modules["pkg_resources"]
        sys.modules.update(before)


_import_fs()

from fs import errors as fs_errors  # noqa: E402 -- only now can it be imported
from fs.base import FS  # noqa: E402
from fs.error_tools import convert_os_errors  # noqa: E402
from fs.info import Info  # noqa: E402
from fs.memoryfs import MemoryFS  # noqa: E402
from fs.mode import Mode  # noqa: E402
from fs.permissions import Permissions  # noqa: E402

__all__ = [
    "FS",
    "Info",
    "MemoryFS",
    "Mode",
    "Permissions",
    "convert_os_errors",
    "fs_errors",
]
