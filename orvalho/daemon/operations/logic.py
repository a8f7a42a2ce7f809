"""What we do when the owner asks what code there is to import."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from orvalho.control import logic
from orvalho.control import messages as control
from orvalho.daemon.house import House
from orvalho.daemon.imports import Imports, Library
from orvalho.errors import InvalidInput, NotFound
from orvalho.scripts.modules import (
    MAX_MODULE_SOURCE_BYTES,
    MAX_MODULES,
    STARLARK,
    SUFFIXES,
    is_named,
    resolve,
)

Replies = AsyncIterator[control.Reply]


class LogicOperations:
    """`orvalho logic ...`, and the modules of a script that is about to be sent."""

    def __init__(self, house: House, libraries: Imports) -> None:
        self._house = house
        self._libraries = libraries

    async def imports(self, request: logic.ScriptImports) -> Replies:
        if len(request.sources) > MAX_MODULES + 1:
            raise InvalidInput(f"a script has at most {MAX_MODULES} modules")
        places: list[logic.ImportPlace] = []
        problems: list[str] = []
        for file, source in request.sources.items():
            if len(source) > MAX_MODULE_SOURCE_BYTES:
                raise InvalidInput(
                    f"a module has at most {MAX_MODULE_SOURCE_BYTES} bytes", where=file
                )
            outline = await self._libraries.outlines.of(file, source)
            for asked in outline.requests:
                try:
                    found = resolve(asked.specifier, file)
                except InvalidInput as error:
                    problems.append(f"{file}:{asked.line}:{asked.column}: {error.message}")
                    continue
                places.append(
                    logic.ImportPlace(
                        file=file,
                        line=asked.line,
                        column=asked.column,
                        specifier=asked.specifier,
                        path=None if is_named(found) else found,
                    )
                )
            problems += [f"{file}:{p.line}:{p.column}: {p.message}" for p in outline.problems]
        yield logic.ScriptImportsReply(imports=tuple(places), problems=tuple(problems))

    async def show(self, request: logic.LogicShow) -> Replies:
        context = self._context(request.context)
        names: Sequence[str] = await self._libraries.names(context)
        if request.name is not None:
            name = request.name if ":" in request.name else f"lib:{request.name}"
            if not is_named(name):
                raise InvalidInput(f'"{request.name}" is no name of a library', hint="lib:images")
            known, names = names, (name,)
        files = [
            await self._file(context, library, [each.path for each in found], number)
            for name in names
            for suffixes in (SUFFIXES, STARLARK)
            for found in [await self._libraries.find(context, name, suffixes)]
            for number, library in enumerate(found)
        ]
        if request.name is not None and not files:
            some = ", ".join(known) or "there is none"
            raise NotFound(
                f'there is no library "{names[0]}" in {context}@{self._house.name}',
                hint=f"known here: {some}",
            )
        yield logic.LogicReply(context=f"{context}@{self._house.name}", files=tuple(files))

    def _context(self, name: str | None) -> str:
        contexts = self._house.contexts
        name = name or self._house.settings.config.context
        if name:
            return contexts.get(name.removesuffix(f"@{self._house.name}")).name
        found = contexts.list()
        if not found:
            raise NotFound("this node has no context", hint="orvalho ctx new NAME")
        return found[0].name

    async def _file(
        self, context: str, library: Library, paths: Sequence[str], number: int
    ) -> logic.LogicFile:
        outline = await self._libraries.outlines.of(library.path, library.source)
        functions = tuple(
            logic.LogicFunction(
                name=each.name, line=each.line, signature=each.signature, doc=each.doc
            )
            for each in outline.functions
        )
        tree = self._house.home.contexts / context / library.path.lstrip("/")
        shared = self._libraries.directory / library.path.partition("/")[2]
        return logic.LogicFile(
            name=library.name,
            path=library.path,
            file=str(tree if library.origin == "context" else shared),
            origin=library.origin,
            digest=f"sha256:{library.digest}",
            wins=number == 0,
            why=_why(library, paths, number),
            functions=functions,
            problems=tuple(f"{p.line}:{p.column}: {p.message}" for p in outline.problems),
        )


def _why(library: Library, paths: Sequence[str], number: int) -> str:
    if number:
        return f"overridden by {paths[0]}"
    if len(paths) > 1:
        return f"comes before {', '.join(paths[1:])}"
    if library.origin == "context":
        return "the context's own; nothing else has that name"
    return "shared by the node; the context has none of that name"
