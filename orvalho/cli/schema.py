"""JSON Schemas (draft 2020-12) of what `--json` prints, made from the replies' Structs.

The files in `schemas/` are these, written out by `packaging/gen_docs.py` for other programs.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from orvalho.cli.output import FORMAT_VERSION
from orvalho.control import (
    grants,
    libraries,
    logic,
    mesh,
    metering,
    past,
    planning,
    policies,
    policy_tools,
    replaying,
    road,
    schemas,
    seeing,
    storage,
    tracing,
)
from orvalho.control import messages as m
from orvalho.control import pairing as p
from orvalho.control import why as w

# Name of the schema -> the reply, and the commands that print it.
_REPLIES: Final[dict[str, tuple[type[m.Message], str]]] = {
    "status": (m.StatusReply, "status"),
    "note": (
        m.Note,
        "ctx new, group add/rm, peer rm/set/rename/revoke, node approve/reject, depot rm, "
        "script cancel, script lock, file cancel, config set, daemon stop, lib rm, "
        "service start/stop, replay --export",
    ),
    "contexts": (m.ContextListReply, "ctx ls"),
    "files": (m.FilesReply, "ctx ls PATH"),
    "ctx-log": (past.CtxLogReply, "ctx log"),
    "ctx-diff": (past.CtxDiffReply, "ctx diff"),
    "ctx-show": (past.CtxShowReply, "ctx show"),
    "ctx-undo-plan": (past.UndoPlanned, "ctx undo --plan"),
    "ctx-undo": (past.UndoDone, "ctx undo"),
    "ctx-at": (past.PastEntries, "ctx at WHEN -- ls, tree, find"),
    "ctx-at-values": (past.PastValues, "ctx at WHEN -- kv"),
    "ctx-gc": (past.CtxGcReply, "ctx gc"),
    "ctx-df": (past.CtxDfReply, "ctx df"),
    "ctx-fsck": (past.CtxFsckReply, "ctx fsck"),
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
    "groups": (policies.GroupListReply, "group ls, group show"),
    "nats-configured": (road.NatsConfigured, "nats config"),
    "resolved": (m.Resolved, "resolve"),
    "script-checked": (logic.ScriptChecked, "script check"),
    "logic": (logic.LogicReply, "logic show, logic which"),
    "run-queued": (m.RunQueued, "script send and script result, where there is no end yet"),
    "run-ended": (m.RunEnded, "script send, script result, repl, wasi call"),
    "run-held": (planning.RunHeld, "script send, to a target whose owner looks at it first"),
    "inbox": (planning.InboxReply, "inbox, inbox ls"),
    "inbox-shown": (planning.InboxShown, "inbox show"),
    "runs": (m.ScriptListReply, "script ls"),
    "run": (m.ScriptShowReply, "script show"),
    "run-output": (m.RunOutput, "script logs; on standard error: script send"),
    "why": (m.WhyReply, "why RUN"),
    "why-asked": (w.WhyAsked, "why --who"),
    "trace": (tracing.TraceReply, "trace"),
    "replayed": (replaying.Replayed, "replay"),
    "policy-checked": (policies.PolicyChecked, "policy check"),
    "grant": (grants.GrantReply, "grant new, narrow, keep, show"),
    "grants": (grants.GrantListReply, "grant ls"),
    "policy-tested": (policy_tools.PolicyTested, "policy test"),
    "policy-diffed": (policy_tools.PolicyDiffed, "policy diff"),
    "policy-unused": (policy_tools.PolicyUnusedReply, "policy unused"),
    "policy-formatted": (policy_tools.PolicyFormatted, "policy fmt"),
    "policy-installed": (policy_tools.PolicyInstalled, "policy edit"),
    "document-schemas": (schemas.SchemaListReply, "ctx schema ls"),
    "documents-checked": (schemas.SchemaChecked, "ctx schema check"),
    "mounted": (storage.MountReply, "ctx mount"),
    "mounts": (storage.MountListReply, "ctx mounts"),
    "secret": (storage.SecretShown, "secret show"),
    "secrets": (storage.SecretListReply, "secret ls"),
    "workers": (m.WorkerListReply, "worker ls"),
    "transports": (road.TransportListReply, "transports"),
    "settings": (m.ConfigReply, "config show"),
    "audit-entry": (policies.AuditEntry, "audit"),
    "quota": (metering.QuotaReply, "quota"),
    "usage": (metering.UsageReply, "usage"),
    "event": (metering.Event, "events"),
    "depot": (road.DepotListReply, "depot ls"),
    "findings": (m.DoctorReply, "doctor"),
    "pong": (seeing.Pong, "ping"),
    "netcheck": (seeing.NetcheckReply, "netcheck"),
    "bench": (seeing.BenchReply, "bench"),
    "metrics": (seeing.MetricsReply, "metrics"),
    "files-waiting": (seeing.FileListReply, "file ls"),
    "report": (seeing.Report, "bugreport"),
    "resolved-all": (seeing.ResolvedAll, "resolve, of a name of several"),
    "wasm-files": (libraries.WasmFiles, "wasi ls; wasi info, of a file"),
    "library": (libraries.LibraryShown, "lib show; wasi info, of a library"),
    "library-published": (libraries.LibraryPublished, "lib publish"),
    "services": (libraries.ServiceListReply, "services"),
    "libraries": (libraries.LibraryListReply, "libs"),
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
    "asked": (
        {
            "name": {"type": "string"},
            "asked": {"type": "integer"},
            "answered": {"type": "integer"},
            "rows": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "to": {"type": "string"},
                        "node": {"type": "string"},
                        "hops": {"type": "integer"},
                        "state": {"type": "string"},
                        "run": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "result": {},
                        "result_bytes": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "error": {"anyOf": [{"type": "object"}, {"type": "null"}]},
                        "took_ms": {"type": "integer"},
                    },
                },
            },
            "left_out": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "to": {"type": "string"},
                        "node": {"type": "string"},
                        "hops": {"type": "integer"},
                        "why": {"type": "string"},
                    },
                },
            },
            "reduce": {"type": "string"},
            "result": {},
        },
        "ask, top",
    ),
    "examples": (
        {
            "examples": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "language": {"type": "string"},
                        "says": {"type": "string"},
                        "source": {"type": "string"},
                        "file": {"type": "string"},
                        "command": {"type": "array", "items": {"type": "string"}},
                        "kept": {"type": "boolean"},
                    },
                },
            },
        },
        "examples ls",
    ),
    "built": (
        {
            "built": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "file": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                        "as_kept": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                        "error": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    },
                },
            },
        },
        "examples build",
    ),
    "written": (
        {
            "files": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "path": {"type": "string"},
                        "written": {"type": "boolean"},
                    },
                },
            },
        },
        "examples extract, config extract",
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
    "library-got": (
        {
            "node": {"type": "string"},
            "file": {"type": "string"},
            "sha256": {"type": "string"},
            "size_bytes": {"type": "integer"},
            "changed": {"type": "boolean"},
        },
        "lib get, wasi get",
    ),
    "program-ended": (
        {
            "run": {"type": "string"},
            "outcome": {"type": "string"},
            "exit_status": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "result": {},
            "result_bytes": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "error": {"anyOf": [{"type": "object"}, {"type": "null"}]},
            "usage": {"type": "object"},
        },
        "wasi run",
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
_STREAMS: Final[dict[str, str | None]] = {
    "run-output": "run.output",
    "audit-entry": "audit.entry",
    "pair-shown": "pair.shown",
    "pair-tried": "pair.tried",
    "pair-arrived": "pair.arrived",
    "pong": "ping.pong",
    # Events have types of their own.
    "event": None,
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
        key: _moment(key, value)
        for key, value in struct["properties"].items()
        if key != "type" or "enum" not in value
    }
    required = [key for key in struct.get("required", ()) if key in properties]
    return {"type": "object", "properties": properties, "required": required}


def _moment(key: str, value: dict[str, Any]) -> dict[str, Any]:
    if key != "at" and not key.endswith("_at"):
        return value
    if value.get("type") == "number":
        return dict(_MOMENT)
    if {"type": "number"} in value.get("anyOf", ()):
        return {"anyOf": [dict(_MOMENT), {"type": "null"}]}
    return value


def _as_event(struct: dict[str, Any], kind: str | None) -> dict[str, Any]:
    """`at` becomes `time`, and the text `message`."""
    rest = {key: value for key, value in struct["properties"].items() if key not in _MOVED}
    head = {
        "type": {"const": kind} if kind else {"type": "string"},
        "time": dict(_MOMENT),
        "level": {"type": "string"},
        "message": {"type": "string"},
    }
    rest.pop("kind" if kind is None else "", None)
    # Of events, what there is nothing to say of is left out.
    required = [*head, *(rest if kind else ())]
    return {"type": "object", "properties": {**head, **rest}, "required": required}


_MOVED: Final = ("at", "text", "level")
