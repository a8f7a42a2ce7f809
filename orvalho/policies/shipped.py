"""The policy that a fresh home starts with, and what a new context's file says."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def shipped_model() -> str:
    return _shipped("model.conf")


def default_rules() -> str:
    """The rules of a fresh home."""
    return _shipped("default.csv")


def context_rules(context: str) -> str:
    """The file of a new context's rules: examples, all of them commented out."""
    return _shipped("context.csv").replace("CONTEXT", context)


def is_shipped_model(text: str) -> bool:
    """Whether `text` says the same as the shipped model; comments and blanks do not count."""
    return _statements(text) == _statements(shipped_model())


def write_defaults(config_dir: Path) -> None:
    """Put model.conf and policy/default.csv where none stand. An owner's own are never touched."""
    (config_dir / "policy").mkdir(parents=True, exist_ok=True)
    _write_new(config_dir / "model.conf", shipped_model())
    _write_new(config_dir / "policy" / "default.csv", default_rules())


def write_context(config_dir: Path, context: str) -> None:
    """Put `policy/<context>.csv` there for a new context, with examples that are commented out."""
    _write_new(config_dir / "policy" / f"{context}.csv", context_rules(context))


def _write_new(path: Path, text: str) -> None:
    if not path.exists():
        path.write_text(text, encoding="utf-8", newline="\n")


def _shipped(name: str) -> str:
    return (files("orvalho.policies") / "defaults" / name).read_text(encoding="utf-8")


def _statements(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", ";"))]
