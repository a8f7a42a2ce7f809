"""How a policy line spells who it is about."""

from __future__ import annotations

from orvalho.contexts.identity import parse_key
from orvalho.contexts.names import parse_address
from orvalho.errors import InvalidInput
from orvalho.policies.access import ANY, OWNER, PAIRED


def subject_mistake(word: str) -> str | None:
    """What is wrong with `word` as a subject, or None.

    A subject is `*`, `@owner`, `@paired`, `@group`, a node (`laptop`), a context on a node
    (`gil@laptop`) or a key (`ed25519:...`).
    """
    if word in (ANY, OWNER, PAIRED):
        return None
    if f"@{word}" in (OWNER, PAIRED):
        return f'"{word}" is no name, did you mean "@{word}"?'
    try:
        if word.startswith("ed25519:"):
            parse_key(word)
            return None
        if word.startswith("@"):
            address = parse_address(word[1:])
            return f'a group is "@" and one name, not "{word}"' if address.context else None
        parse_address(word)
    except InvalidInput as error:
        return f"{error.message}: {error.hint}" if error.hint else error.message
    return None


def group_mistake(word: str) -> str | None:
    """What is wrong with `word` as the group of a `g` line, or None."""
    if word in (OWNER, PAIRED):
        # Else one line would make a guest's device the owner's own.
        return f"{word} is decided by keys alone: nobody can be put into it"
    if not word.startswith("@"):
        return f'a group starts with "@": write "@{word}"'
    return subject_mistake(word)
