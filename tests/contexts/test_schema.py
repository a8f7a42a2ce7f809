"""Schemas: every mistake with its place, and nothing that a hostile one could do."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from orvalho.contexts.json_text import canonical, line_of, read_json
from orvalho.contexts.schema import MAX_SCHEMA_BYTES, Schema
from orvalho.errors import InvalidInput

CONTACT = """{
  "type": "object",
  "properties": {
    "name": {"type": "string"},
    "email": {"type": "string", "format": "email"},
    "tags": {"items": {"enum": ["a", "b"]}}
  },
  "required": ["name"]
}"""


def schema(value, name="schema/contact.json"):
    raw = value.encode() if isinstance(value, str) else json.dumps(value).encode()
    return Schema(name, raw)


def lines(made, document):
    return [each.line for each in made.mistakes(document)]


def test_every_mistake_is_told_with_its_pointer_and_the_line_of_the_rule():
    found = lines(schema(CONTACT), {"email": "nobody", "tags": ["a", "c", "d"]})
    assert found == [
        '/: "name" is a required property (schema/contact.json:8)',
        '/email: "nobody" is not a "email" (schema/contact.json:5)',
        '/tags/1: "c" is not one of "a" or "b" (schema/contact.json:6)',
        '/tags/2: "d" is not one of "a" or "b" (schema/contact.json:6)',
    ]
    assert lines(schema(CONTACT), {"name": "Ana", "email": "ana@example.org"}) == []


def test_very_many_mistakes_are_cut_and_long_or_odd_values_are_shortened():
    made = schema({"items": {"type": "string"}})
    found = made.mistakes([1] * 1000)
    assert len(found) == 21
    assert found[-1].text == "and further mistakes"
    told = lines(schema({"type": "integer"}), "\x1b[31m\u202e" + "x" * 10_000)[0]
    assert len(told) < 300
    assert told.isprintable()
    name = "\x1b\n" + "y" * 5000
    told = lines(schema({"additionalProperties": {"type": "null"}}), {name: 1})[0]
    assert len(told) < 500
    assert told.isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "schema/contact.json:1:2: this is no JSON"),
        ('{\n  "type": "strin"\n}', "schema/contact.json:2: /type"),
        (
            '{\n "properties": {\n  "a": {"minLength": -1}}}',
            "schema/contact.json:3: /properties/a/minLength",
        ),
        ("[1]", "a schema is an object"),
        ('{"type": 1, "type": 2}', "twice in one object"),
        ('{"x-index": "city"}', '"x-index" is a list'),
        ('{"$ref": "#/$defs/none"}', "does not exist"),
        ('{"pattern": "("}', "regex"),
        ('{"pattern": "(?=a)(?<!b)"}', "regex"),
        ('{"pattern": "(a)\\\\1"}', "regex"),
        ('{"pattern": "(((a{1000}){1000}){1000})"}', "regex"),
        ('{"$dynamicRef": "#x"}', "does not use"),
        ('{"$ref": "#"}', "refers to itself"),
        ('{"allOf": [{"$ref": "#"}]}', "refers to itself"),
        (
            '{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}},'
            ' "$ref": "#/$defs/a"}',
            "refers to itself",
        ),
        ('{"$defs": {"a": {"$id": "http://127.0.0.1:1/a"}}}', '"$id"'),
        ("[" * 100_000, "nests more"),
        ('{"not":' * 101 + "true" + "}" * 101, "nests more"),
        (" " * (MAX_SCHEMA_BYTES + 1), "at most"),
        ('{"enum": [' + ",".join(["[]"] * 30_000) + "]}", "parts"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place(text, said):
    with pytest.raises(InvalidInput, match=r"schema/contact\.json") as error:
        schema(text)
    assert said in error.value.message


@pytest.fixture
def listener():
    """A server that counts who comes."""
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        stopped = threading.Event()

        def accept():
            while not stopped.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                came.append(1)
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], came
        stopped.set()
        thread.join()


def test_nothing_is_fetched_for_a_reference(listener, tmp_path):
    port, came = listener
    other = tmp_path / "other.json"
    other.write_text("true")
    for uri in (
        f"http://127.0.0.1:{port}/x.json",
        f"HTTP://127.0.0.1:{port}/x.json",
        f"//127.0.0.1:{port}/x.json",
        other.as_uri(),
        str(other),
        "other.json",
        "urn:x:y",
    ):
        for text in (
            {"$ref": uri},
            {"properties": {"a": {"$ref": uri}}},
            {"$defs": {"a": {"$ref": uri}}},
            {"$id": uri, "$ref": "x"},
            {"unknown": {"$ref": uri}, "$ref": "#/unknown"},
        ):
            with pytest.raises(InvalidInput):
                schema(text)
        # Named only, these are nothing to fetch.
        assert lines(schema({"$schema": uri, "type": "null"}), None) == []
    assert not came


def test_a_pattern_that_never_ends_elsewhere_ends_here():
    made = schema(
        {"pattern": "^(a+)+$", "allOf": [{"pattern": "^(a|a)*$"}, {"pattern": "(.*a){12}"}]}
    )
    start = time.monotonic()
    assert made.mistakes("a" * 100_000 + "b")
    assert time.monotonic() - start < 30, "backtracking would take longer than there is time"


def doubling(levels):
    parts = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**parts, f"d{levels}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def test_a_schema_that_multiplies_is_refused_before_it_is_used():
    assert lines(schema(doubling(4)), "x")
    for levels in (12, 40, 200):
        with pytest.raises(InvalidInput, match="2000 times"):
            schema(doubling(levels))


def test_a_schema_that_multiplies_with_depth_takes_shallow_documents_alone():
    twice = {"properties": {"c": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}
    assert 5 <= schema(twice).max_depth <= 12
    # Through parts that do not stand beside each other.
    apart = {
        "allOf": [
            {"properties": {"c": {"$ref": "#"}}},
            {"additionalProperties": {"$ref": "#"}},
            {"patternProperties": {".": {"$ref": "#"}}},
        ]
    }
    assert schema(apart).max_depth < 10


@pytest.mark.parametrize(
    "value",
    [
        {"type": "array", "items": {"$ref": "#"}},
        {"properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}}},
        {"properties": {"a": {"$ref": "#"}}, "additionalProperties": {"$ref": "#"}},
        {"prefixItems": [{"$ref": "#"}], "items": {"$ref": "#"}},
        {
            "oneOf": [
                {"type": "integer"},
                {"properties": {"args": {"items": {"$ref": "#"}}}},
                {"properties": {"not": {"$ref": "#"}}},
            ]
        },
        {"$defs": {"n": {"$anchor": "node", "items": {"$ref": "#node"}}}, "$ref": "#node"},
    ],
)
def test_a_schema_that_only_descends_takes_documents_of_any_depth(value):
    assert schema(value).max_depth == 64


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"a": 1,\n "a": 2}', "the name 'a' stands twice"),
        (b'{"a":\n NaN}', "NaN"),
        (b"-Infinity", "Infinity"),
        (b"1e999", "too large"),
        (b"9" * 101, "at most 100 digits"),
        (b"9" * 10_000, "at most 100 digits"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b"\xff", "a.json:1:1"),
        (b'"a\n\xe9', "a.json:2:1"),
        (b"", "a.json:1:1"),
        (b"{'a': 1}", "a.json:1:2"),
        (b'{\n  "a": 1,\n}', "a.json:3:1"),
        (b"[1] 2", "a.json:1:5"),
        (b"\xef\xbb\xbf{}", "a.json:1:1"),
        (b"[" * 65 + b"]" * 65, "more than 64 deep"),
        (b"[" * 100_000, "more than 64 deep"),
        (b'{"a":' * 100_000, "more than 64 deep"),
        (b'"\x01"', "control"),
    ],
)
def test_json_that_readers_take_differently_is_refused(raw, said):
    with pytest.raises(InvalidInput) as error:
        read_json(raw, "a.json")
    assert said in error.value.message
    assert error.value.message.startswith("a.json")


@pytest.mark.parametrize(
    "value",
    [{"items": {"type": "string"}}, {"oneOf": [{"items": {"type": "string"}}, {"items": False}]}],
)
def test_half_a_million_mistakes_are_not_listed(value):
    made = schema(value)
    start = time.monotonic()
    for document in ([1] * 500_000, [[[1] * 10] * 10] * 5000):
        (only,) = made.mistakes(document)
        assert "does not fit" in only.text
    assert time.monotonic() - start < 5, "the list alone takes the validator half a minute"


def test_a_number_beyond_a_double_is_held_against_the_limits_too():
    made = schema({"maximum": 5})
    for digits in (20, 40, 99, 100):
        assert lines(made, int("9" * digits)), digits
        assert not lines(made, -int("9" * digits)), digits


def test_json_within_the_limits_is_read_and_written_as_it_means():
    deep = b"[" * 64 + b"]" * 64
    assert read_json(deep, "a")
    text = '{ "c\\u0069ty" : "\\ud83d\\ude00", "__proto__": [1.50, 1E2, -0] }'
    value = read_json(text.encode(), "a")
    assert canonical(value) == '{"city":"\U0001f600","__proto__":[1.5,100.0,0]}'
    wide = b'{"a": [' + b",".join([b"{}"] * 1000) + b"]}"
    assert len(read_json(wide, "a")["a"]) == 1000


@pytest.mark.parametrize(
    ("path", "line"),
    [([], 1), (["a"], 2), (["b", 1, "c"], 5), (["b", 2], 4), (["none"], 1), (["b", "x"], 3)],
)
def test_the_line_of_a_part_of_a_text(path, line):
    text = '{\n "a": "}{,",\n "b": [\n  1,\n  {"c": [[]]\n  }\n ]\n}'
    expected = {("b", 2): 3}.get(tuple(path), line)
    assert line_of(text, path) == expected
