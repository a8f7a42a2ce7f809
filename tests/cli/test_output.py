import json
import os
import sys
from pathlib import Path

import pytest

from orvalho.cli import output
from orvalho.cli.schema import names
from orvalho.control import messages as m
from orvalho.errors import InvalidInput
from orvalho.policies import quotas

EXAMPLES = Path(__file__).parents[2] / "examples"
RULES = Path(quotas.__file__).parent / "defaults/default.csv"
SCHEMAS = Path(output.__file__).parent / "schemas"

JSON_COMMANDS = {
    "version": ("version",),
    "status": ("status",),
    "note": ("ctx", "new", "alice"),
    "contexts": ("ctx", "ls"),
    "files": ("ctx", "ls", "/"),
    "ctx-log": ("ctx", "log"),
    "ctx-diff": ("ctx", "diff", "gil"),
    "ctx-show": ("ctx", "show", "c_01JD"),
    "ctx-undo-plan": ("ctx", "undo", "c_01JD", "--plan"),
    "ctx-at": ("ctx", "at", "now", "--", "ls"),
    "ctx-gc": ("ctx", "gc"),
    "ctx-df": ("ctx", "df"),
    "ctx-fsck": ("ctx", "fsck"),
    "ticket": ("peer", "invite"),
    "peer-added": ("peer", "add", "orvalho1:abc"),
    "pending": ("node", "pending"),
    "key": ("key", "show"),
    "key-rotated": ("key", "rotate", "-y"),
    "key-phrase": ("key", "phrase", "-y"),
    "peers": ("peer", "ls"),
    "files-waiting": ("file", "ls"),
    "nodes": ("nodes",),
    "groups": ("group", "show", "@family"),
    "nats-configured": ("nats", "config"),
    "resolved": ("resolve", "peer@phone2"),
    "script-checked": ("script", "check", __file__),
    "run-queued": ("script", "send", "peer@phone2", "-e", "1", "--detach"),
    "run-ended": ("script", "send", "peer@phone2", "-e", "1"),
    "runs": ("script", "ls"),
    "run": ("script", "show", "r_1"),
    "logic": ("logic", "show", "peer"),
    "run-output": ("script", "logs", "r_1"),
    "why": ("why", "r_1"),
    "why-asked": ("why", "--who", "gil@laptop", "--do", "fs.write", "--on", "peer:/a"),
    "trace": ("trace", "r_1"),
    "replayed": ("replay", "r_1"),
    "policy-checked": ("policy", "check"),
    "grant": ("grant", "new", "--to", "bob"),
    "grants": ("grant", "ls"),
    "policy-diffed": ("policy", "diff", str(RULES)),
    "policy-unused": ("policy", "unused"),
    "inbox": ("inbox", "ls"),
    "inbox-shown": ("inbox", "show", "r_1"),
    "document-schemas": ("ctx", "schema", "ls"),
    "documents-checked": ("ctx", "schema", "check"),
    "mounted": ("ctx", "mount", "gil:/photos", "s3://album", "--secret", "photos"),
    "mounts": ("ctx", "mounts"),
    "secret": ("secret", "show", "photos"),
    "secrets": ("secret", "ls"),
    "workers": ("worker", "ls"),
    "transports": ("transports",),
    "settings": ("config", "show"),
    "audit-entry": ("audit",),
    "depot": ("depot", "ls"),
    "quota": ("quota",),
    "usage": ("usage", "--by", "group"),
    "event": ("events",),
    "findings": ("doctor",),
    "daemon": ("daemon", "status"),
    "networks": ("use",),
    "pong": ("ping", "phone2"),
    "netcheck": ("netcheck",),
    "bench": ("bench", "phone2", "--duration", "0.1"),
    "report": ("bugreport",),
    "metrics": ("metrics",),
    "asked": ("ask", "all", "-e", "1"),
    "examples": ("examples", "ls"),
    "built": ("examples", "build", "ram", "--out", "OUT"),
    "written": ("examples", "extract", "OUT"),
    "library-published": ("lib", "publish", __file__),
    "libraries": ("libs", "phone2"),
    "library": ("lib", "show", "add@phone2"),
    "library-got": ("lib", "get", "add@phone2", "-o", os.devnull),
    "program-ended": ("wasi", "run", "add@phone2"),
    "services": ("services",),
    "wasm-files": ("wasi", "ls", str(EXAMPLES)),
    "files-sent": ("file", "send", __file__, "phone2:"),
}


# What the daemon's own program answers; see scenarios/test_policy_tools.
OFFLINE = ("policy-tested", "policy-formatted", "policy-installed")
# What real daemons answer in tests/scenarios/test_history.py.
PAST = ("ctx-undo", "ctx-at-values")

# What a name of several is answered with; see test_several.
SEVERAL = ("resolved-all", "runs-of-several")


def misfit(value, schema, top, place="$"):
    """The first place where a value is not as its JSON Schema has it, or None. Knows the words
    that our schemas use, and no others."""
    known = {
        "type",
        "properties",
        "required",
        "items",
        "prefixItems",
        "anyOf",
        "$ref",
        "const",
        "format",
        "default",
        "$defs",
        "$schema",
        "title",
        "additionalProperties",
        "minItems",
        "maxItems",
        "contentEncoding",
        "description",
    }
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        return misfit(value, top["$defs"][schema["$ref"].removeprefix("#/$defs/")], top, place)
    if "anyOf" in schema:
        found = [misfit(value, option, top, place) for option in schema["anyOf"]]
        return None if None in found else found[0]
    if "const" in schema and value != schema["const"]:
        return place
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "number": (int, float),
        "null": type(None),
    }
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return f"{place} is not {schema['type']}: {value!r}"
    if schema.get("format") == "date-time" and not value.endswith("Z"):
        return f"{place} is no moment"
    if isinstance(value, dict) and "properties" in schema:
        if missing := set(schema.get("required", ())) - set(value):
            return f"{place} lacks {missing}"
        if unknown := set(value) - set(schema["properties"]):
            return f"{place} has {unknown}"
        parts = ((value[key], schema["properties"][key], key) for key in value)
    elif isinstance(value, list) and "items" in schema and schema["items"] is not False:
        parts = ((part, schema["items"], at) for at, part in enumerate(value))
    else:
        return None
    for part, inner, at in parts:
        if (found := misfit(part, inner, top, f"{place}.{at}")) is not None:
            return found
    return None


@pytest.mark.parametrize("name", JSON_COMMANDS)
def test_what_json_prints_is_as_its_schema_says(name, daemon, orvalho, capsys, tmp_path):
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    words = [str(tmp_path / "out") if word == "OUT" else word for word in JSON_COMMANDS[name]]
    at = words.index("--") if "--" in words else len(words)
    assert orvalho(*words[:at], "--json", *words[at:]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    for line in lines:
        assert misfit(json.loads(line), schema, schema) is None


# A stream with lines of several kinds, each with a schema.
PAIR_KINDS = ("pair-shown", "pair-tried", "pair-arrived")


def test_each_line_of_pair_is_as_its_schema_says(daemon, orvalho, capsys):
    assert orvalho("pair", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == [kind.replace("-", ".") for kind in PAIR_KINDS]
    for line, kind in zip(lines, PAIR_KINDS, strict=True):
        schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
        assert misfit(line, schema, schema) is None


def test_errors_are_as_their_schema_says(orvalho, capsys):
    schema = json.loads((SCHEMAS / "error.json").read_text())
    assert orvalho("nothing", "--json") == 2
    assert misfit(json.loads(capsys.readouterr().err), schema, schema) is None


def test_what_waits_for_its_targets_owner_is_as_its_schema_says(daemon, orvalho, capsys):
    daemon.says(m.ScriptSend, m.RunHeld(run="r_1", to="peer@phone2"))
    schema = json.loads((SCHEMAS / "run-held.json").read_text())
    assert orvalho("script", "send", "peer@phone2", "-e", "1", "--json") == 7
    assert misfit(json.loads(capsys.readouterr().out), schema, schema) is None
    assert orvalho("script", "send", "peer@phone2", "-e", "1") == 7
    assert "held at peer@phone2" in capsys.readouterr().err


def test_every_schema_has_a_command_that_is_tested():
    # `init` needs the daemon's own program; see test_daemon_commands.
    others = {*PAIR_KINDS, *SEVERAL, *OFFLINE, *PAST, "error", "init", "run-held"}
    assert set(names()) == {*JSON_COMMANDS, *others}
    assert {file.stem for file in SCHEMAS.glob("*.json")} == set(names())


def test_the_schemas_and_the_page_of_commands_are_current():
    sys.path.insert(0, str(Path(__file__).parents[2] / "packaging"))
    try:
        import gen_docs
    finally:
        sys.path.pop(0)
    assert gen_docs.CLI_PAGE.read_text() == gen_docs.cli_page(), "run packaging/gen_docs.py"
    for file, content in gen_docs.schema_files().items():
        assert (SCHEMAS / file).read_text() == content, "run packaging/gen_docs.py"


def test_a_guests_own_fields_are_not_taken_for_moments(daemon, orvalho, capsys):
    assert orvalho("script", "show", "r_1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["receipt"] == {"ended_at": 5}
    assert shown["state"]["ended_at"] == "2023-11-14T22:13:21.000Z"


def test_tables_have_no_headers_and_no_colour_off_a_terminal(daemon, orvalho, capsys):
    assert orvalho("peer", "ls") == 0
    line = capsys.readouterr().out
    assert line.split()[:4] == ["phone2", "own", "online", "peer"]
    assert "PEER" not in line
    assert "\x1b" not in line


def test_no_color_is_obeyed_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    output.Screen({}).progress("on")
    output.Screen({"NO_COLOR": "1"}).progress("off")
    assert capsys.readouterr().err == "\x1b[2mon\x1b[0m\noff\n"


def test_the_one_mistake_is_told_once_and_each_of_several(capsys):
    screen = output.Screen({})
    one, two = "a.js:1:4: unexpected end", "a.js:2:1: no such name"
    told = "a.js cannot be run: unexpected end"
    screen.error(InvalidInput(told, where="a.js:1:4", detail=one))
    assert capsys.readouterr().err.count("unexpected end") == 1
    screen.error(InvalidInput(told, where="a.js:1:4", detail=f"{one}\n{two}"))
    printed = capsys.readouterr().err
    assert one in printed
    assert two in printed
    screen.error(InvalidInput(told, where="a.js:1:4", detail="a.js:1:4: something else"))
    assert "something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("hint", "typed"),
    [
        ("orvalho peer ls", "orvalho --home '/my home' peer ls"),
        ("on phone2: orvalho status", "on phone2: orvalho status"),
        ("on the other device: orvalho peer add T", "on the other device: orvalho peer add T"),
        (
            "on phone2: orvalho peer invite; here: orvalho peer add -",
            "on phone2: orvalho peer invite; here: orvalho --home '/my home' peer add -",
        ),
        (quotas._HINT, quotas._HINT),
        ("edit /x/orvalho/config.toml", "edit /x/orvalho/config.toml"),
    ],
)
def test_what_to_type_next_names_the_home_that_was_given(hint, typed):
    screen = output.Screen({})
    assert screen.typed_here(hint) == hint
    screen.home = "/my home"
    assert screen.typed_here(hint) == typed


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (64_000_000, "64 MB"),
        (999_999, "1 MB"),
        (2 * 10**15, "2000 TB"),
    ],
)
def test_sizes_for_people(count, text):
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59, "59 s"), (59.9, "1 m"), (3600, "1 h"), (7 * 86400, "7 d"), (-5, "0 s")],
)
def test_durations_for_people(seconds, text):
    assert output.duration(seconds) == text


def test_status_is_one_line_a_peer_and_names_the_road(daemon, orvalho, capsys):
    assert orvalho("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("laptop  orvalho 0.1.0  pid 42")
    assert lines[1] == "phone2  own    online   direct 127.0.0.1:4455"
    assert lines[2].startswith("tab     guest  offline  mailbox 3 queued, last seen ")
    assert lines[3] == "! policy/gil.csv:7: unknown action"
