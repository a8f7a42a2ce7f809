"""A tree in memory: for tests, and for what should not outlive the daemon."""

from __future__ import annotations

from typing import Any

from orvalho.contexts.fs_shim import MemoryFS, fs_errors


class MemoryTree(MemoryFS):  # type: ignore[misc]  # fs is untyped here
    """The library's own, a tree for each instance; it keeps every promise but durability.

    Below a path that is a file, or that is not there, the library's own fails an assertion, and a
    move loses what it moved: here that is refused first.
    """

    def makedir(self, path: str, permissions: Any = None, recreate: bool = False) -> Any:
        self._require_directory_above(path)
        return super().makedir(path, permissions, recreate)

    def move(
        self, src_path: str, dst_path: str, overwrite: bool = False, preserve_time: bool = False
    ) -> None:
        self._require_directory_above(dst_path)
        super().move(src_path, dst_path, overwrite, preserve_time)

    def movedir(
        self, src_path: str, dst_path: str, create: bool = False, preserve_time: bool = False
    ) -> None:
        self._require_directory_above(dst_path)
        super().movedir(src_path, dst_path, create, preserve_time)

    def read_at_most(self, path: str, count: int) -> bytes:
        """The first `count` bytes of a file, or all it has."""
        with self.openbin(path, "rb") as file:
            contents: bytes = file.read(count)
        return contents

    def _require_directory_above(self, path: str) -> None:
        above = self.validatepath(path).rpartition("/")[0] or "/"
        if not self.isdir(above):
            raise fs_errors.ResourceNotFound(path)
