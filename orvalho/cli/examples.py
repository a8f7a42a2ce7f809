"""The examples that come with the program: where they lie, what each is, how it is built."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

import orvalho
from orvalho.cli.written import write_new
from orvalho.errors import InvalidInput, NotFound, ScriptFailed, Unavailable

_PACKAGE: Final = Path(orvalho.__file__).parent
_LIST: Final = "examples.toml"
_BUILD_S: Final = 600
_ASK_S: Final = 30
# A first word of a command -> the package that has it, and what makes it to be had.
_MODULES: Final = {"zig": "ziglang"}
_INSTALL: Final = {
    "zig": "pip install orvalho[examples]",
    "componentize-py": "pip install orvalho[examples]",
    "asc": "npm install -g assemblyscript",
    "rustc": "rustup target add wasm32-unknown-unknown"
    " (Debian: apt-get install rustc libstd-rust-dev-wasm32 lld)",
}


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of examples.toml. `file` is what is sent, beside its source; without a `command`
    that is the source itself. `keeps`: the built file is kept beside it, and the toolchain makes
    the same bytes each time."""

    name: str
    language: str
    source: str
    file: str
    says: str
    command: tuple[str, ...] = ()
    keeps: bool = True

    @property
    def tool(self) -> str | None:
        return self.command[0] if self.command else None


class _List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    example: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """`file` was written for an example; `is_as_kept` is None where nothing is kept."""

    example: Example
    file: Path
    is_as_kept: bool | None


def directory() -> Path:
    """Where the examples lie: inside an installed package, beside a checked out one."""
    for place in (_PACKAGE / "examples", _PACKAGE.parent / "examples"):
        if (place / _LIST).is_file():
            return place
    raise NotFound("this installation has no examples", where=str(_PACKAGE / "examples"))


def examples() -> tuple[Example, ...]:
    text = (directory() / _LIST).read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), _List).example


def find(name: str) -> Example:
    """Raises:
    NotFound: there is none of that name.
    """
    known = {each.name: each for each in examples()}
    if name not in known:
        raise NotFound(f'there is no example "{name}"', hint="orvalho examples ls")
    return known[name]


def shipped_file(name: str) -> Path:
    """The file of an example, ready to be sent."""
    example = find(name)
    return directory() / example.language / example.file


def extract(to: Path) -> Iterator[tuple[Path, bool]]:
    """Copy all of them: each file, and whether it was written. A file that says something else
    there is left as it is.

    Raises:
        InvalidInput: they cannot be written there.
    """
    top = directory()
    for source in sorted(top.rglob("*")):
        if source.is_dir() or "__pycache__" in source.parts:
            continue
        yield write_new(to / source.relative_to(top), source.read_bytes())


def build(example: Example, to: Path) -> Built:
    """Build one example into `to`/LANGUAGE, with the file beside it that says what it needs.

    Raises:
        Unavailable: its toolchain is not installed; the hint installs it.
        ScriptFailed: the toolchain refuses the source; `detail` has what it said.
        InvalidInput: nothing can be written there.
    """
    folder = directory() / example.language
    target = to.absolute() / example.language
    command = _command(example)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / example.file
            _run(example, [word.replace("OUT", str(made)) for word in command], folder)
            content = made.read_bytes()
        kept = folder / example.file
        is_as_kept = kept.read_bytes() == content if kept.exists() else None
        (target / example.file).write_bytes(content)
        beside = Path(f"{kept}.toml")
        if beside.exists() and target != folder:
            shutil.copyfile(beside, target / beside.name)
    except OSError as error:
        raise InvalidInput(
            f"{target} cannot be written: {error.strerror}", where=str(target)
        ) from error
    return Built(example, target / example.file, is_as_kept)


def _command(example: Example) -> list[str]:
    tool, *rest = example.command
    if (module := _MODULES.get(tool)) is not None:
        if find_spec(module) is None:
            raise _missing(example, tool)
        return [sys.executable, "-m", module, *rest]
    beside = Path(sys.executable).with_name(tool)
    found = str(beside) if beside.exists() else shutil.which(tool)
    if found is None or (tool == "rustc" and not _has_wasm(found)):
        raise _missing(example, tool)
    return [found, *rest]


def _has_wasm(rustc: str) -> bool:
    """Whether this compiler has a core library for WebAssembly, which comes apart from it."""
    words = [rustc, "--print", "target-libdir", "--target", "wasm32-unknown-unknown"]
    try:
        told = subprocess.run(  # noqa: S603 - the compiler that was found
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0 and Path(told.stdout.decode().strip()).is_dir()


def _missing(example: Example, tool: str) -> Unavailable:
    return Unavailable(
        f"{example.name} is built with {tool}, which is not installed here",
        where=f"{example.language}/{example.source}",
        hint=_INSTALL.get(tool),
    )


def _run(example: Example, command: list[str], folder: Path) -> None:
    where = str(folder / example.source)
    try:
        done = subprocess.run(  # noqa: S603 - a command of our own list
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} took more than {_BUILD_S} s", where=where) from error
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").splitlines()
        raise ScriptFailed(
            f"{example.tool} does not build {example.source}: status {done.returncode}",
            where=where,
            detail="\n".join(said[:20]),
        )
