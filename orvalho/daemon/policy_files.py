"""The owner's files of rules, as files: their tests, their layout, and drafts of them. In a process
of its own, since a home that no daemon serves has rules too."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orvalho.contexts.names import near_miss
from orvalho.control.message import Message
from orvalho.control.policy_tools import (
    PolicyDrafted,
    PolicyFormatted,
    PolicyInstalled,
    PolicyTested,
    RuleTestState,
)
from orvalho.daemon.home import Home
from orvalho.errors import Conflict, InvalidInput, NotFound, Unavailable
from orvalho.policies.book import PolicyBook
from orvalho.policies.conditions import UNKNOWN
from orvalho.policies.layout import laid_out
from orvalho.policies.rules import read_rule_file, rule_files

_WORD: Final = "default"


def answer(home: Home, task: str, words: Sequence[str]) -> Message:
    """What `policy test`, `fmt` and `edit` ask of the daemon's program: `test`, `fmt [FILE...]`,
    `fmt-check [FILE...]`, `draft NAME`, `install NAME`.

    Raises:
        OrvalhoError: it cannot be done; nothing has been changed.
    """
    if not home.is_initialised:
        raise NotFound("this device is not set up yet: there are no keys", hint="orvalho init")
    if task == "test":
        return outcome(home)
    if task == "draft":
        return drafted(home, words[0])
    if task == "install":
        return installed(home, words[0])
    return formatted(home, [Path(word) for word in words], writes=task == "fmt")


def outcome(home: Home) -> PolicyTested:
    """Each test of the files as they are now."""
    checked = _book(home).check()
    tests = tuple(
        RuleTestState(
            test=each.test.where,
            text=each.test.text,
            passed=each.passed,
            by=each.by,
        )
        for each in checked.tests
    )
    passed = sum(each.passed for each in tests)
    return PolicyTested(
        passed=passed,
        failed=len(tests) - passed,
        tests=tests,
        problems=() if tests else checked.problems,
    )


def formatted(home: Home, paths: Sequence[Path], *, writes: bool) -> PolicyFormatted:
    """Lay files out anew: these, or all of the home's. One with a mistake is left as it is, and so
    are all when `writes` is off."""
    changed, problems = [], []
    found = [(str(path), path) for path in paths] or _named(home)
    for name, path in found:
        try:
            content = read_rule_file(path)
            text = laid_out(name, content).encode()
            if text != content:
                if writes:
                    put_in_place(path, text, was=content)
                changed.append(name)
        except OSError as error:
            problems.append(f"{name}: cannot be read: {error.strerror or error}")
        except InvalidInput as error:
            problems += (error.detail or error.message).split("\n")
        except Conflict as error:
            problems.append(f"{name}: {error.message}")
    return PolicyFormatted(files=len(found), changed=tuple(changed), problems=tuple(problems))


def drafted(home: Home, name: str) -> PolicyDrafted:
    """A copy of `policy/NAME.csv` to edit; the one that is there already, if an edit left one.

    Raises:
        NotFound: no context and no file of rules is called so.
        Unavailable: the disk fails.
    """
    path, draft, note = _places(home, name)
    if draft.exists() and note.exists():
        was = note.read_text().strip()
        return PolicyDrafted(name=path.name, draft=str(draft), was=was, kept=True)
    try:
        content = _current(path)
        was = _digest(content)
        draft.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place, written in ((draft, content or b""), (note, was.encode())):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(place, flags, 0o600), "wb") as file:
                file.write(written)
    except OSError as error:
        raise Unavailable(
            f"policy/{path.name} cannot be drafted: {error.strerror or error}", where=str(draft)
        ) from error
    return PolicyDrafted(name=path.name, draft=str(draft), was=was)


def installed(home: Home, name: str) -> PolicyInstalled:
    """Put the draft of `policy/NAME.csv` in its place, if the rules with it have no mistake and no
    test fails. Mistakes of other files, which were there before, do not keep it back.

    Raises:
        Conflict: the file is not the one any more that the draft was made from.
        NotFound: there is no draft.
    """
    path, draft, note = _places(home, name)
    try:
        content, was = read_rule_file(draft), note.read_text().strip()
    except OSError as error:
        raise NotFound(f"there is no draft of policy/{path.name}", where=str(draft)) from error
    current = _current(path)
    if _digest(current) != was:
        raise _changed_meanwhile(path, draft)
    if content == (current or b""):
        _drop(draft, note)
        return PolicyInstalled(name=path.name, installed=False)
    book = _book(home)
    file = f"policy/{path.name}"
    found = book.check_with({file: content}).problems
    known = set(book.problems)
    mistakes = [text for text in found if text.startswith(f"{file}:") or text not in known]
    if mistakes:
        told = tuple(mistakes)
        return PolicyInstalled(name=path.name, installed=False, problems=told, draft=str(draft))
    put_in_place(path, content, was=current)
    _drop(draft, note)
    return PolicyInstalled(name=path.name, installed=True, problems=found)


def put_in_place(path: Path, content: bytes, *, was: bytes | None) -> None:
    """Write a file whole or not at all, with the rights it had; a link stays a link, and what it
    leads to is written.

    Raises:
        Conflict: the file is not `was` any more (None: there is none).
        Unavailable: it cannot be written there.
    """
    place = path.resolve()
    try:
        handle, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        fresh = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, 0o600 if was is None else place.stat().st_mode & 0o777)
                file.write(content)
                file.flush()
                os.fsync(handle)
            if _current(place) != was:
                raise _changed_meanwhile(path, None)
            if was is None:
                # Fails if there is one after all, where a rename would write over it.
                os.link(fresh, place)
            else:
                fresh.replace(place)
        finally:
            fresh.unlink(missing_ok=True)
    except FileExistsError as error:
        raise _changed_meanwhile(path, None) from error
    except OSError as error:
        raise Unavailable(
            f"{path.name} cannot be written: {error.strerror or error}", where=str(place)
        ) from error


def _changed_meanwhile(path: Path, draft: Path | None) -> Conflict:
    kept = f"; your draft stays in {draft}" if draft else ""
    hint = f"take over what you want, then delete {draft}" if draft else "orvalho policy check"
    text = f"policy/{path.name} was changed by somebody else meanwhile: nothing is written{kept}"
    return Conflict(text, where=str(path), hint=hint)


def _drop(*places: Path) -> None:
    for place in places:
        place.unlink(missing_ok=True)


def _digest(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


def _current(path: Path) -> bytes | None:
    try:
        return read_rule_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(
            f"{path.name} cannot be read: {error.strerror or error}", where=str(path)
        ) from error


def _named(home: Home) -> list[tuple[str, Path]]:
    try:
        return [(name, home.config / name) for name, _ in rule_files(home.config)]
    except OSError as error:
        raise Unavailable(
            f"the rules cannot be read: {error.strerror or error}", where=str(home.policy)
        ) from error


def _places(home: Home, name: str) -> tuple[Path, Path, Path]:
    """The file, its draft, and the note of what the draft was made from."""
    files = {path.stem for path in home.policy.glob("*.csv")}
    known = {_WORD, *files, *_contexts(home)}
    if name not in known:
        near = near_miss(name, known)
        raise NotFound(
            f"there is no context {name!a} here" + (f', did you mean "{near}"?' if near else ""),
            hint="orvalho ctx ls",
        )
    drafts = home.state / "drafts"
    return home.policy / f"{name}.csv", drafts / f"{name}.csv", drafts / f"{name}.was"


def _contexts(home: Home) -> list[str]:
    return [each.name for each in home.contexts.glob("*") if each.is_dir()]


def _book(home: Home) -> PolicyBook:
    """What stands in the files is tried, so nothing of this moment counts."""
    return PolicyBook(home.config, lambda: _contexts(home), lambda: UNKNOWN)
