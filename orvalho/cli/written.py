"""Files that a command writes into a directory: nothing that stands there already is lost."""

from __future__ import annotations

from pathlib import Path

from orvalho.cli.output import many
from orvalho.cli.session import Session
from orvalho.errors import InvalidInput


def write_new(file: Path, content: bytes) -> tuple[Path, bool]:
    """The file, and whether it was written: what stands there already is never touched.

    Raises:
        InvalidInput: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        return file, False
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be written: {error.strerror}", where=str(file)
        ) from error
    return file, True


def show_written(session: Session, done: list[tuple[Path, bool]]) -> None:
    """The files that a command wrote, and those that it found and left alone."""
    if session.screen.as_json:
        shown = [{"path": str(path), "written": is_new} for path, is_new in done]
        session.screen.document({"files": shown})
        return
    if not session.screen.quiet:
        session.screen.lines(str(path) for path, is_new in done if is_new)
    left = sum(not is_new for _, is_new in done)
    if left:
        session.screen.notice(f"{many(left, 'file')} stood there already, and stayed as they were")
