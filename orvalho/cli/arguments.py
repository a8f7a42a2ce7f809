"""Kinds of arguments: what a word on the command line may be, parsed once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import click

from orvalho.errors import InvalidInput

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
# How a WebAssembly module begins.
_MODULE: Final = b"\0asm"


class Duration(click.ParamType[int]):
    """`90s`, `30m`, `7d`; whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([1-9]\d{0,8})([smhdw])", value)
        if found is None:
            self.fail(f'"{value}" is not a duration such as 90s, 30m, 12h or 7d', param, ctx)
        return int(found[1]) * _UNITS_S[found[2]]


def read_text(file: str) -> str:
    """The text of a file, or of standard input for `-`.

    Raises:
        InvalidInput: it cannot be read, or is not UTF-8.
    """
    try:
        if file == "-":
            return sys.stdin.buffer.read().decode()
        return Path(file).read_bytes().decode()
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", where=file) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8 text: {error}.", where=file) from error


def read_script(file: str) -> tuple[str, bytes, str | None]:
    """A script as it is sent: its text, or the bytes of a WebAssembly module (standard input for
    `-`); and the text of the file beside a module that says what it needs, `FILE.toml`.

    Raises:
        InvalidInput: it cannot be read, or is neither a module nor UTF-8.
    """
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", where=file) from error
    if raw.startswith(_MODULE) or file.endswith((".wasm", ".wat")):
        beside = Path(f"{file}.toml")
        return "", raw, read_text(str(beside)) if beside.exists() else None
    try:
        return raw.decode(), b"", None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8 text: {error}.", where=file) from error


def script_params(pairs: tuple[str, ...], file: str | None) -> bytes:
    """The JSON value that a script gets as `params`: a file's, then `key=value` over it.

    A value that parses as JSON is that, any other is text: `n=3` is a number, `name=ana` a string.

    Raises:
        InvalidInput: a pair without `=`, a file that is not JSON, or pairs over a file whose JSON
            is not an object.
    """
    params: Any = None
    if file is not None:
        try:
            params = json.loads(read_text(file))
        except ValueError as error:
            raise InvalidInput(f"{file} is not JSON: {error}.", where=file) from error
    if pairs:
        params = {} if file is None else params
        if not isinstance(params, dict):
            raise InvalidInput(
                f"--param adds to an object, but {file} holds another kind of JSON.", where=file
            )
        params |= dict(_pair(text) for text in pairs)
    return json.dumps(params, ensure_ascii=False).encode()


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(
            f'"{text}" is no parameter: a key, "=" and a value.', hint="--param name=value"
        )
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
