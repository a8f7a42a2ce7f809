"""A configuration to start from: every setting with what it means and its default, and the rules
that a fresh home has. Made from what reads them, so that it is never out of date."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from orvalho.control.extract import ExampleFile, ExampleFiles
from orvalho.daemon.config import load
from orvalho.daemon.settings import Config
from orvalho.policies.shipped import context_rules, default_rules, shipped_model

_WIDTH: Final = 96
_NAME: Final = "laptop"
_CONTEXT: Final = "peer"
_HEAD: Final = """\
# Settings of one node. It is read again when you save it; a mistake changes nothing, and
# `orvalho status` says what and where. `name` is needed. Each of the others has its default here,
# behind a "#": take that away to change one. `orvalho config show --origin` says which value is in
# force, and where it comes from: a flag wins over ORVALHO_* in the environment, that over
# conf.d/*.toml, that over this file.
"""


def example_files() -> ExampleFiles:
    """config.toml, model.conf and two files of rules."""
    texts = {
        "config.toml": _settings(),
        "model.conf": shipped_model(),
        "policy/default.csv": default_rules(),
        f"policy/{_CONTEXT}.csv": context_rules(_CONTEXT),
    }
    return ExampleFiles(
        files=tuple(ExampleFile(path=path, text=text) for path, text in texts.items())
    )


def _settings() -> str:
    # No file lies there, so that all but the name is the default.
    loaded = load(Path("/nonexistent"), {}, {"name": _NAME})
    values = {key: value for key, value, _ in loaded.settings}
    lines = [_HEAD, f"name = {values.pop('name')}", ""]
    # What stands before the first table belongs to none.
    lines += [*_comment(Config), *(f"# {k} = {v}" for k, v in values.items() if "." not in k)]
    for field in msgspec.structs.fields(Config):
        kind = field.type
        if not (inspect.isclass(kind) and issubclass(kind, msgspec.Struct)):
            continue
        lines += ["", *_comment(kind), f"[{field.name}]"]
        prefix = f"{field.name}."
        own = {k: v for k, v in values.items() if k.startswith(prefix)}
        lines += [f"# {key.removeprefix(prefix)} = {value}" for key, value in own.items()]
    return "\n".join(lines) + "\n"


def _comment(kind: type) -> Iterator[str]:
    # Only its own words: a struct without any has those of msgspec's.
    text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
    for line in textwrap.wrap(" ".join(text.split()), _WIDTH - 3):
        yield f"## {line}"
