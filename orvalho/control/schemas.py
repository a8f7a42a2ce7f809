"""The part of the local API that is about the schemas of documents."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class SchemaList(Message, frozen=True, kw_only=True, tag=tag):
    """What the schemas of a context, or of all, are bound to. -> SchemaListReply"""

    context: str | None = None


class SchemaState(Message, frozen=True, kw_only=True):
    """`schema` is the file below the context's tree, `kv` a collection of values, `indexed` the
    fields that queries of it find quickly. `problem`: why nothing may be written to what it is
    bound to, or None."""

    context: str
    schema: str
    files: tuple[str, ...]
    kv: str | None
    indexed: tuple[str, ...]
    problem: str | None


class SchemaListReply(Message, frozen=True, kw_only=True, tag=tag):
    """`closed`: (context, why nothing but `/schema` may be written there)."""

    schemas: tuple[SchemaState, ...]
    closed: tuple[tuple[str, str], ...]


class SchemaCheck(Message, frozen=True, kw_only=True, tag=tag):
    """Hold what lies in a context, or in all, against the schemas. -> SchemaChecked"""

    context: str | None = None


class Misfit(Message, frozen=True, kw_only=True):
    """`at` is a path or a key; `mistakes` begin with a JSON pointer each."""

    context: str
    at: str
    schema: str
    mistakes: tuple[str, ...]


class SchemaChecked(Message, frozen=True, kw_only=True, tag=tag):
    """`documents` were looked at. `misfits` are the first 1000; `found` counts all. `problems` are
    schemas that cannot be used."""

    documents: int
    found: int
    misfits: tuple[Misfit, ...]
    problems: tuple[str, ...]


Request = SchemaList | SchemaCheck
Reply = SchemaListReply | SchemaChecked
