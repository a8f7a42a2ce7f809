"""Everything the command line prints, for people and as JSON.

Data goes to standard output; progress, logs and errors go to standard error. This module is on
the path of the fastest commands: it imports tabulate only for a table, and nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any, Final

from orvalho.errors import OrvalhoError

# major.minor: a minor version only adds fields.
FORMAT_VERSION: Final = "1.0"

# What a guest or a peer wrote must not drive our terminal: control characters, and those that
# reorder text (Unicode TR36), are shown as escapes, in the form that is right inside a JSON
# string too. Tab and line feed stay.
_CONTROL: Final = {
    code: f"\\u{code:04x}"
    for code in (
        *range(0x09),
        *range(0x0B, 0x20),
        *range(0x7F, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
}
# JSON values of scripts and peers: passed on as they are, whatever their keys are called.
_VERBATIM: Final = ("result", "receipt")
_STYLES: Final = {"dim": "2", "bold": "1", "red": "31", "yellow": "33", "green": "32"}


class Screen:
    """Standard output and standard error, as the options and the terminal want them."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self.home: str | None = None
        self._colour = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    @property
    def is_terminal(self) -> bool:
        return sys.stdout.isatty()

    # ---- standard output

    def line(self, text: str = "") -> None:
        """One line of data."""
        print(safe(text))

    def line_now(self, text: str) -> None:
        """One line of a stream, seen at once."""
        print(safe(text), flush=True)

    def lines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.line(text)

    def verbatim(self, text: str) -> None:
        """Text of our own that is meant for a program: a completion script."""
        sys.stdout.write(text)

    def raw(self, content: bytes) -> None:
        """Bytes for a file or a program, never for a terminal."""
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Aligned columns; their headers only on a terminal, so that `cut` and `awk` see data."""
        from tabulate import tabulate  # noqa: PLC0415 - 50 ms that other commands do without

        cells = [["-" if cell is None else safe(str(cell)) for cell in row] for row in rows]
        shown = [header.upper() for header in headers] if self.is_terminal else ()
        if cells:
            print(tabulate(cells, headers=shown, tablefmt="plain", disable_numparse=True))

    def clear(self) -> None:
        """An empty terminal, to be drawn anew."""
        print("\033[H\033[2J", end="")

    def flush(self) -> None:
        """What was printed is seen now."""
        sys.stdout.flush()

    def document(self, reply: Mapping[str, Any]) -> None:
        """The one JSON object of a command; moments become RFC 3339."""
        print(_json({"format_version": FORMAT_VERSION, **_dated(reply)}))

    def event(
        self, kind: str, *, at: float, level: str, message: str, fields: Mapping[str, Any]
    ) -> None:
        """One JSON object of a stream, on a line of its own, seen at once."""
        print(_event(kind, at, level, message, fields), flush=True)

    # ---- standard error

    def progress(self, text: str) -> None:
        """What happens meanwhile, for someone who watches a terminal or asked with --verbose."""
        if (sys.stderr.isatty() or self.verbose) and not self.quiet and not self.as_json:
            self._error_line(text, "dim")

    def meter(self, text: str) -> None:
        """How far something is, on one line that is written over; an empty text takes it away.
        Only on a terminal."""
        if sys.stderr.isatty() and not self.quiet and not self.as_json:
            print(f"\r\033[K{safe(text)}", end="", file=sys.stderr, flush=True)

    def notice(self, text: str) -> None:
        """What the person should know beside the data; nothing with --quiet."""
        if not self.quiet and not self.as_json:
            self._error_line(self.typed_here(text))

    def typed_here(self, text: str) -> str:
        """A text that names commands, with the `--home` of this invocation in those that are to
        be typed here: `on phone2: orvalho status` is typed elsewhere, and so is what ends in `, on
        the other device` or `, over there`."""
        if self.home is None or "orvalho " not in text:
            return text
        import re  # noqa: PLC0415 - only with --home, and only when there is a command to type
        import shlex  # noqa: PLC0415

        here = f"orvalho --home {shlex.quote(self.home)} "
        return re.sub(
            r"(\bon [\w -]+: )?\borvalho (?=[a-z])(?![\w ]+, (?:on the other device|over there))",
            lambda found: found[0] if found[1] else here,
            text,
        )

    def error_line(self, text: str) -> None:
        """A line that a program wrote to its own standard error."""
        print(safe(text), file=sys.stderr, flush=True)

    def guest_line(
        self, name: str, *, level: str, text: str, at: float, run: str, seq: int
    ) -> None:
        """A line that a script logged, while its result is awaited."""
        if self.as_json:
            fields = {"run": run, "seq": seq}
            print(_event("run.output", at, level, text, fields), file=sys.stderr, flush=True)
        elif not self.quiet:
            style = {"error": "red", "warn": "yellow"}.get(level)
            prefix = self._styled(f"{safe(name)}|", "dim", sys.stderr)
            for part in text.split("\n"):
                shown = self._styled(safe(part), style, sys.stderr)
                print(f"{prefix} {shown}", file=sys.stderr, flush=True)

    def aside(self, kind: str, fields: Mapping[str, Any]) -> None:
        """With --json: what happens beside the result, one object on standard error."""
        line = _event(kind, time.time(), "info", "", fields)
        print(line, file=sys.stderr, flush=True)

    def error(self, error: OrvalhoError) -> None:
        """The four parts of an error: what and why, where, the rule, what to type next."""
        if self.as_json:
            names = ("code", "message", "where", "rule", "hint", "peer", "detail")
            parts = {name: getattr(error, name) for name in names}
            print(json.dumps({"format_version": FORMAT_VERSION, "error": parts}), file=sys.stderr)
            return
        self._error_line(f"error[{error.code}]: {error.message}", "red")
        for label in ("peer", "where", "rule"):
            if value := getattr(error, label):
                self._error_line(f"  {label:<5} {value}")
        for line in _news(error):
            self._error_line(f"  {line}", "dim")
        if error.hint:
            self._error_line(f"  try   {self.typed_here(error.hint)}")

    def traceback(self) -> None:
        """Where the exception in work was raised; only with --verbose."""
        if self.verbose:
            import traceback  # noqa: PLC0415 - 5 ms that only --verbose needs

            traceback.print_exc()

    def _error_line(self, text: str, style: str | None = None) -> None:
        print(self._styled(safe(text), style, sys.stderr), file=sys.stderr, flush=True)

    def _styled(self, text: str, style: str | None, stream: IO[str]) -> str:
        if style is None or not self._colour or not stream.isatty():
            return text
        return f"\033[{_STYLES[style]}m{text}\033[0m"


def _news(error: OrvalhoError) -> list[str]:
    """The further lines; none when there is one, which the message and its place say already."""
    lines = (error.detail or "").splitlines()
    if len(lines) == 1 and error.where and lines[0].startswith(f"{error.where}: "):
        told = lines[0].removeprefix(f"{error.where}: ")
        return [] if error.message.endswith(told) else lines
    return lines


def _event(kind: str, at: float, level: str, message: str, fields: Mapping[str, Any]) -> str:
    line = {
        "format_version": FORMAT_VERSION,
        "type": kind,
        "time": moment(at),
        "level": level,
        "message": message,
        **_dated(fields),
    }
    return _json(line)


def _json(value: Mapping[str, Any]) -> str:
    return safe(json.dumps(value, ensure_ascii=False))


def _dated(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: inner if key in _VERBATIM else _dated_field(key, inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_dated(inner) for inner in value]
    return value


def _dated_field(key: str, value: Any) -> Any:
    is_moment = key == "at" or key.endswith("_at")
    if is_moment and isinstance(value, (int, float)):
        return moment(value)
    return _dated(value)


# ---- words for people ---------------------------------------------------------------------


def safe(text: str) -> str:
    """The text, unable to move the cursor, colour or reorder what a terminal shows."""
    return text.translate(_CONTROL)


def moment(at: float) -> str:
    """RFC 3339 in UTC: `2026-11-21T10:15:00.250Z`."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def size(count: int) -> str:
    """`512 B`, `1.5 kB`, `64 MB`: powers of 1000."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95 or unit == "TB":
            break
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def duration(seconds: float) -> str:
    """`3 s`, `5 m`, `2 h`, `7 d`: the largest unit that fits, rounded."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length - 0.5:
            return f"{round(seconds / length)} {unit}"
    return f"{max(0, round(seconds))} s"


def age(at: float | None) -> str:
    """How long ago: `2 h ago`, or `never`."""
    return "never" if at is None else f"{duration(time.time() - at)} ago"


def milliseconds(count: int) -> str:
    """`41 ms`, `1.5 s`."""
    return f"{count} ms" if count < 1000 else f"{count / 1000:.1f} s"


def many(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
