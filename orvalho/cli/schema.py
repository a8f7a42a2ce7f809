"""JSON Schemas (draft 2020-12) of what `--json` prints, made from the replies' Structs.

The files in `schemas/` are these, written out by `packaging/gen_docs.py` for other programs.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from orvalho.cli.output import FORMAT_VERSION
from orvalho.control import mesh, road, seeing
from orvalho.control import messages as m
from orvalho.control import pairing as p

# Name of the schema -> the reply, and the commands that print it.
_REPLIES: Final[dict[str, tuple[type[m.Message], str]]] = {
    "status": (m.StatusReply, "status"),
    "note": (
        m.Note,
        "ctx new, peer rm/set/rename/revoke, node approve/reject, depot rm, script cancel, "
        "file cancel, config set, daemon stop",
    ),
    "contexts": (m.ContextListReply, "ctx ls"),
    "files": (m.FilesReply, "ctx ls PATH"),
    "ticket": (m.Ticket, "peer invite"),
    "peer-added": (m.PeerAdded, "peer add, pair CODE"),
    "pair-shown": (p.PairShown, "pair"),
    "pair-tried": (p.PairTried, "pair"),
    "pair-arrived": (p.PairArrived, "pair"),
    "key": (p.KeyReply, "key show"),
    "key-rotated": (p.KeyRotated, "key rotate"),
    "key-phrase": (p.KeyPhraseReply, "key phrase"),
    "pending": (p.NodePendingReply, "node pending"),
    "peers": (m.PeerListReply, "peer ls"),
    "nodes": (mesh.NodesReply, "nodes"),
    "groups": (m.GroupListReply, "group ls, group show"),
    "nats-configured": (road.NatsConfigured, "nats config"),
    "resolved": (m.Resolved, "resolve"),
    "script-checked": (m.ScriptChecked, "script check"),
    "run-queued": (m.RunQueued, "script send, when it does not wait for the end"),
    "run-ended": (m.RunEnded, "script send, script result, repl"),
    "runs": (m.ScriptListReply, "script ls"),
    "run": (m.ScriptShowReply, "script show"),
    "run-output": (m.RunOutput, "script logs; on standard error: script send"),
    "why": (m.WhyReply, "why"),
    "policy-checked": (m.PolicyChecked, "policy check"),
    "workers": (m.WorkerListReply, "worker ls"),
    "transports": (road.TransportListReply, "transports"),
    "settings": (m.ConfigReply, "config show"),
    "audit-entry": (m.AuditEntry, "audit"),
    "depot": (road.DepotListReply, "depot ls"),
    "findings": (m.DoctorReply, "doctor"),
    "pong": (seeing.Pong, "ping"),
    "netcheck": (seeing.NetcheckReply, "netcheck"),
    "bench": (seeing.BenchReply, "bench"),
    "files-waiting": (seeing.FileListReply, "file ls"),
    "report": (seeing.Report, "bugreport"),
    "resolved-all": (seeing.ResolvedAll, "resolve, of a name of several"),
    "error": (m.Failed, "any command that fails, on standard error"),
}
# What is printed without a reply of its own behind it.
_OWN: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "runs-of-several": (
        {
            "name": {"type": "string"},
            "results": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "to": {"type": "string"},
                        "why": {"type": "string"},
                        "run": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "state": {"type": "string"},
                        "result": {},
                        "result_bytes": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "error": {"anyOf": [{"type": "object"}, {"type": "null"}]},
                    },
                },
            },
        },
        "script send, to @group or all",
    ),
    "networks": (
        {
            "networks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "home": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "current": {"type": "boolean"},
                    },
                },
            },
        },
        "use",
    ),
    "files-sent": (
        {
            "files": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "state": {"type": "string"},
                        "to": {"type": "string"},
                        "path": {"type": "string"},
                        "size_bytes": {"type": "integer"},
                        "sha256": {"type": "string"},
                        "took_ms": {"type": "integer"},
                        "sent_bytes": {"type": "integer"},
                        "changed": {"type": "boolean"},
                        "file": {"type": "string"},
                        "queued_at": {"type": "string"},
                        "expires_at": {"type": "string", "format": "date-time"},
                        "error": {"type": "object"},
                    },
                },
            },
        },
        "file send",
    ),
    "version": ({"version": {"type": "string"}}, "version"),
    "init": (
        {
            "changed": {"type": "boolean"},
            "lines": {"type": "array", "items": {"type": "string"}},
        },
        "init",
    ),
    "daemon": (
        {
            "running": {"type": "boolean"},
            "changed": {"type": "boolean"},
            "node": {"type": "string"},
            "version": {"type": "string"},
            "pid": {"type": "integer"},
            "started_at": {"type": "string", "format": "date-time"},
            "listening": {"type": "array", "items": {"type": "string"}},
        },
        "daemon start, daemon status",
    ),
}
# Replies that are printed as lines of a stream: the type, and the field that is the message.
_STREAMS: Final = {
    "run-output": "run.output",
    "audit-entry": "audit.entry",
    "pair-shown": "pair.shown",
    "pair-tried": "pair.tried",
    "pair-arrived": "pair.arrived",
    "pong": "ping.pong",
}
_MOMENT: Final = {"type": "string", "format": "date-time"}


def names() -> tuple[str, ...]:
    """Every kind of output there is a schema for."""
    return (*_REPLIES, *_OWN)


def schema(name: str) -> dict[str, Any]:
    """The schema of one kind of output; `name` is one of `names()`."""
    if name in _OWN:
        properties, commands = _OWN[name]
        body = {"type": "object", "properties": properties, "required": list(properties)}
        return _document(body, commands, {})
    kind, commands = _REPLIES[name]
    _, components = msgspec.json.schema_components([kind])
    definitions = {key: _as_printed(value) for key, value in components.items()}
    body = definitions.pop(kind.__name__)
    if name in _STREAMS:
        body = _as_event(body, _STREAMS[name])
    elif name == "error":
        body = {"type": "object", "properties": {"error": body}, "required": ["error"]}
    return _document(body, commands, definitions)


def _document(body: dict[str, Any], commands: str, definitions: dict[str, Any]) -> dict[str, Any]:
    body["properties"] = {"format_version": {"const": FORMAT_VERSION}, **body["properties"]}
    body["required"] = ["format_version", *body.get("required", ())]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"orvalho --json: {commands}",
        **body,
        "$defs": definitions,
    }


def _as_printed(struct: dict[str, Any]) -> dict[str, Any]:
    """Without the tag, and with moments as RFC 3339. What is printed is complete, but fields with
    a default are not required: a later version may leave them out."""
    properties = {
        key: _moment(key, value) for key, value in struct["properties"].items() if key != "type"
    }
    required = [key for key in struct.get("required", ()) if key != "type"]
    return {"type": "object", "properties": properties, "required": required}


def _moment(key: str, value: dict[str, Any]) -> dict[str, Any]:
    if key != "at" and not key.endswith("_at"):
        return value
    if value.get("type") == "number":
        return dict(_MOMENT)
    if {"type": "number"} in value.get("anyOf", ()):
        return {"anyOf": [dict(_MOMENT), {"type": "null"}]}
    return value


def _as_event(struct: dict[str, Any], kind: str) -> dict[str, Any]:
    """`at` becomes `time`, and the text `message`."""
    rest = {key: value for key, value in struct["properties"].items() if key not in _MOVED}
    head = {
        "type": {"const": kind},
        "time": dict(_MOMENT),
        "level": {"type": "string"},
        "message": {"type": "string"},
    }
    return {"type": "object", "properties": {**head, **rest}, "required": [*head, *rest]}


_MOVED: Final = ("at", "text", "level")
