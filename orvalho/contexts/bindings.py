"""What the schemas in a tree's `/schema` are bound to: `/schema/bindings.toml`, read strictly.

    [contact]                      # /schema/contact.json
    files = "contacts/*.json"      # one glob or a list; * within a name, ** across
    kv = "contacts"                # the collection: keys that begin with contacts/

What is broken closes: nothing is written where a broken schema is bound, and nothing but `/schema`
itself while it cannot be told what is bound.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from orvalho.contexts.filesystem import VirtualPath, spelled_safely, virtual_path
from orvalho.contexts.json_text import canonical, read_json
from orvalho.contexts.query import field_path
from orvalho.contexts.schema import Mistake, Schema
from orvalho.errors import Denied, InvalidInput, LimitExceeded

FOLDER: Final = VirtualPath("/schema")
BINDINGS_FILE: Final = "bindings.toml"
MAX_DOCUMENT_BYTES: Final = 1 << 20
MAX_SCHEMAS: Final = 64

_COLLECTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_WORDS: Final = ("files", "kv")


def check_collection(name: str) -> str:
    """The name itself, if it is one of a collection.

    Raises:
        InvalidInput: it is not: 1 to 64 letters, digits, `_`, `-` and `.`.
    """
    if not _COLLECTION.fullmatch(name):
        raise InvalidInput(
            "a collection's name is 1 to 64 letters, digits, _, - and .",
            where=spelled_safely(name),
        )
    return name


@dataclass(frozen=True, slots=True)
class Binding:
    """One schema and what it is bound to. Broken, `schema` is None and `problem` says why."""

    name: str
    schema: Schema | None
    problem: str | None
    globs: tuple[str, ...]
    collection: str | None

    @property
    def file(self) -> str:
        return f"schema/{self.name}.json"


@dataclass(frozen=True)
class Bindings:
    """All that one tree's schemas demand, as they were at one moment. Safe in every thread.

    `closed` is why nothing may be written but below `/schema`; None, usually.
    """

    all: tuple[Binding, ...] = ()
    closed: str | None = None
    _patterns: tuple[tuple[_Glob, Binding], ...] = field(init=False, repr=False)
    _collections: Mapping[str, Binding] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        patterns = [(_Glob(glob), each) for each in self.all for glob in each.globs]
        object.__setattr__(self, "_patterns", tuple(patterns))
        named = {each.collection: each for each in self.all if each.collection}
        object.__setattr__(self, "_collections", named)

    @property
    def problems(self) -> tuple[str, ...]:
        """What the owner should mend."""
        broken = tuple(each.problem for each in self.all if each.problem)
        return (*((self.closed,) if self.closed else ()), *broken)

    def of_collection(self, name: str) -> Binding | None:
        return self._collections.get(name)

    def binds(self, key: str) -> bool:
        """Whether a schema is bound to a key."""
        collection, slash, _ = key.partition("/")
        return bool(slash) and collection in self._collections

    def of_file(self, place: VirtualPath) -> tuple[Binding, ...]:
        """Those bound to a path of the tree. Capitals do not matter: some systems that a tree may
        be copied to take them for the same."""
        if not self._patterns:
            return ()
        folded = place.casefold()
        found = {id(each): each for pattern, each in self._patterns if pattern.matches(folded)}
        return tuple(found.values())

    def check_file(self, place: VirtualPath, size_bytes: int, read: Callable[[], bytes]) -> None:
        """Whether this may be the content of the file at `place`; `read` is called only when a
        schema is bound to it.

        Raises:
            InvalidInput: it does not fit, with every mistake; or no schema can be asked.
            LimitExceeded: it is larger than a document may be.
        """
        if self.closed and not is_schema(place):
            raise self._closed(place)
        for binding in self.of_file(place):
            at = place[1:]
            _refuse_size(binding, at, size_bytes)
            self._check(binding, at, read())

    def check_value(self, key: str, text: str) -> str:
        """The text that is kept for a JSON text put at `key`: itself, or one with the same meaning
        where a schema is bound.

        Raises:
            InvalidInput, LimitExceeded: as `check_file`.
        """
        if self.closed:
            raise self._closed(key)
        collection, slash, _ = key.partition("/")
        binding = self._collections.get(collection) if slash else None
        if binding is None:
            return text
        raw = text.encode("utf-8", "surrogatepass")
        _refuse_size(binding, key, len(raw))
        return canonical(self._check(binding, key, raw))

    def mistakes(self, binding: Binding, at: str, raw: bytes) -> list[str]:
        """What is wrong with a document that lies there already, a line each."""
        try:
            _refuse_size(binding, at, len(raw))
            return [each.line for each in self._held(binding, at, raw)[1]]
        except (InvalidInput, LimitExceeded) as error:
            return [error.message]

    def _check(self, binding: Binding, at: str, raw: bytes) -> Any:
        document, mistakes = self._held(binding, at, raw)
        if mistakes:
            told = "; ".join(each.line for each in mistakes)
            raise InvalidInput(f"{at} does not fit: {told}", where=at)
        return document

    def _held(self, binding: Binding, at: str, raw: bytes) -> tuple[Any, list[Mistake]]:
        if binding.schema is None:
            raise InvalidInput(
                f"{at} is bound to {binding.file}, which is broken: {binding.problem}",
                where=at,
                hint="orvalho ctx schema ls",
            )
        document = read_json(raw, at, max_depth=binding.schema.max_depth)
        return document, binding.schema.mistakes(document)

    def _closed(self, at: str) -> InvalidInput:
        return InvalidInput(
            f"nothing is written to this context until its schemas can be read: {self.closed}",
            where=at,
            hint="orvalho ctx schema ls",
        )


def is_schema(place: str) -> bool:
    """Whether a path is `/schema` or lies below it."""
    return place[1:].partition("/")[0].casefold() == FOLDER[1:]


def read_bindings(read: Callable[[str], bytes | None]) -> Bindings:
    """What the files of `/schema` say; `read` gives one by its name, None where there is none.
    What is wrong with them is in the answer; only what `read` raises is raised."""
    raw = read(BINDINGS_FILE)
    if raw is None:
        return Bindings()
    where = f"schema/{BINDINGS_FILE}"
    try:
        tables = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)", str(error))
        at = f":{place[1]}:{place[2]}" if place else f":{len(raw.splitlines())}"
        return Bindings(closed=f"{where}{at}: {str(error).partition(' (at')[0]}")
    if len(tables) > MAX_SCHEMAS:
        return Bindings(closed=f"{where}: at most {MAX_SCHEMAS} schemas are bound")
    try:
        found = tuple(_read_binding(name, table, read) for name, table in tables.items())
        _refuse_twice(found)
    except InvalidInput as error:
        return Bindings(closed=f"{where}{_line(raw, error.where)}: {error.message}")
    return Bindings(found)


def _read_binding(name: str, table: Any, read: Callable[[str], bytes | None]) -> Binding:
    if not _NAME.fullmatch(name):
        raise InvalidInput("a schema's name is letters, digits, _ and -", where=name)
    if not isinstance(table, dict):
        raise InvalidInput(f"[{name}] is a table", where=name)
    if unknown := [word for word in table if word not in _WORDS]:
        raise InvalidInput(f"[{name}] has files and kv, and no {unknown[0]!a}", where=name)
    globs = table.get("files", [])
    given = [globs] if isinstance(globs, str) else globs
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InvalidInput(f"[{name}] files is a glob or a list of globs", where=name)
    collection = table.get("kv")
    if collection is not None:
        if not isinstance(collection, str):
            raise InvalidInput(f"[{name}] kv is the name of a collection", where=name)
        check_collection(collection)
    if not given and collection is None:
        raise InvalidInput(f"[{name}] is bound to nothing: files or kv says to what", where=name)
    places = tuple(_glob(each, name) for each in given)
    schema, problem = _compiled(name, read)
    return Binding(name, schema, problem, places, collection)


def _compiled(name: str, read: Callable[[str], bytes | None]) -> tuple[Schema | None, str | None]:
    file = f"schema/{name}.json"
    try:
        raw = read(f"{name}.json")
    except LimitExceeded as error:
        return None, f"{file}: {error.message}"
    if raw is None:
        return None, f"{file} is bound, and is not there"
    try:
        schema = Schema(file, raw)
        for each in schema.indexed:
            field_path(each, is_indexed=True)
    except InvalidInput as error:
        text = error.message if error.message.startswith(file) else f"{file}: {error.message}"
        return None, text
    return schema, None


def _glob(text: str, name: str) -> str:
    try:
        # A star is no letter of a path, and stands for any.
        place = virtual_path(text.replace("*", "x"))
    except (Denied, InvalidInput) as error:
        raise InvalidInput(f"[{name}] {text!a} is no glob: {error.message}", where=name) from error
    if place.count("/") != text.strip("/").count("/") + 1 or text.endswith("/"):
        raise InvalidInput(f'[{name}] {text!a}: write it as "contacts/*.json"', where=name)
    if is_schema(place):
        raise InvalidInput(f"[{name}] nothing in /schema is bound to a schema", where=name)
    if any("**" in part and part != "**" for part in text.split("/")):
        raise InvalidInput(f"[{name}] {text!a}: ** stands alone between slashes", where=name)
    return "/" + text.strip("/")


class _Glob:
    """A glob, matched name by name: what a path of a thousand characters costs stays linear."""

    def __init__(self, text: str) -> None:
        names = text.casefold().split("/")[1:]
        self._names = [None if name == "**" else _name_pattern(name) for name in names]

    def matches(self, folded: str) -> bool:
        # The numbers of names matched so far, for each way to spread the ** of the glob.
        ends = {0}
        names = folded.split("/")[1:]
        for pattern in self._names:
            if pattern is None:
                ends = set(range(min(ends), len(names) + 1))
            else:
                ends = {at + 1 for at in ends if at < len(names) and pattern.fullmatch(names[at])}
            if not ends:
                return False
        return len(names) in ends


def _name_pattern(name: str) -> re.Pattern[str]:
    first, *rest = (re.escape(part) for part in re.split(r"\*+", name))
    if not rest:
        return re.compile(first)
    # Atomic groups: a part is never looked for a second time.
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return re.compile(f"{first}{middle}.*{rest[-1]}", re.DOTALL)


def _refuse_twice(found: tuple[Binding, ...]) -> None:
    seen: dict[str, str] = {}
    for each in found:
        if each.collection is None:
            continue
        if (other := seen.setdefault(each.collection, each.name)) != each.name:
            raise InvalidInput(
                f"[{other}] and [{each.name}] are bound to one collection", where=each.name
            )


def _line(raw: bytes, name: str | None) -> str:
    """`:3`, where the table of that name begins."""
    for number, line in enumerate(raw.decode().splitlines(), 1):
        if name and re.match(rf'\s*\[\s*["\']?{re.escape(name)}["\']?\s*\]', line):
            return f":{number}"
    return ""


def _refuse_size(binding: Binding, at: str, size_bytes: int) -> None:
    if size_bytes > MAX_DOCUMENT_BYTES:
        raise LimitExceeded(
            f"document_bytes: what is bound to {binding.file} has at most {MAX_DOCUMENT_BYTES}"
            f" bytes, {at} has {size_bytes}",
            where=at,
        )
