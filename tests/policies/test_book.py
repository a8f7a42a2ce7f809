"""The policy book: all or nothing, the last good rules stay, and the shipped ones hold."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from orvalho.policies.access import AccessRequest, Subject
from orvalho.policies.book import PolicyBook
from orvalho.policies.shipped import is_shipped_model, shipped_model, write_context, write_defaults

OWN = Subject("ed25519:own", frozenset({"*", "@paired", "@owner", "laptop", "me@laptop"}))
GUEST = Subject("ed25519:guest", frozenset({"*", "@paired", "phone", "gil@phone"}))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_defaults(tmp_path)
    return tmp_path


def open_book(home: Path) -> PolicyBook:
    return PolicyBook(home, lambda: ["peer"])


def may(book: PolicyBook, action: str, object_: str, subject: Subject = OWN) -> bool:
    return book.decide(AccessRequest(subject, "peer", action, object_)).allowed


@pytest.mark.parametrize(
    ("action", "object_", "own"),
    [
        ("script.run", "sha256:00", True),
        ("script.send", "peer@phone", True),
        ("fs.read", "/shared/a/b", True),
        ("fs.read", "/inbox/a", True),
        ("fs.write", "/inbox/a", True),
        ("fs.write", "/shared/a", False),
        ("fs.remove", "/inbox/a", False),
        ("fs.read", "/private", False),
        ("kv.read", "x", False),
    ],
)
def test_a_fresh_home_lets_the_owners_devices_in_and_nobody_else(
    home: Path, action: str, object_: str, own: bool
) -> None:
    book = open_book(home)

    assert book.problems == ()
    assert may(book, action, object_) is own
    assert not may(book, action, object_, GUEST)


def test_grants_count_once_the_rules_were_read_and_not_under_a_model_of_ones_own(
    home: Path,
) -> None:
    bad = home / "policy/bad.csv"
    bad.write_text("p, gil, peer, fs.raed, /, deny\n")
    book = open_book(home)
    assert not book.takes_grants
    bad.unlink()
    book.reload()
    assert book.takes_grants
    bad.write_text("p, gil, peer, fs.raed, /, deny\n")
    book.reload()
    assert book.takes_grants, "the last good rules are in force, and their denies known"
    bad.unlink()
    (home / "model.conf").write_text(shipped_model().replace("[matchers]", "[matchers]\n# ours"))
    assert is_shipped_model((home / "model.conf").read_text())
    (home / "model.conf").write_text(
        shipped_model().replace("&& resMatch", "&& r.sub != r.obj && resMatch")
    )
    book.reload()
    assert book.problems == ()
    assert not book.takes_grants


def test_a_new_contexts_file_changes_nothing_until_it_is_edited(home: Path) -> None:
    book = open_book(home)
    write_context(home, "peer")

    assert book.reload() == type(book.reload())(0, 0, ())
    assert "context peer" in (home / "policy/peer.csv").read_text()


def test_every_example_of_a_new_contexts_file_is_right(home: Path) -> None:
    write_context(home, "peer")
    path = home / "policy/peer.csv"
    text = path.read_text()
    path.write_text(text.replace("# p, ", "p, ").replace("# g, ", "g, "))

    assert open_book(home).problems == ()


def test_an_owners_own_file_is_never_overwritten(home: Path) -> None:
    (home / "policy/default.csv").write_text("# mine\n")
    write_defaults(home)

    assert (home / "policy/default.csv").read_text() == "# mine\n"


def test_a_broken_file_keeps_the_last_good_rules_and_says_so(home: Path) -> None:
    book = open_book(home)
    bad = home / "policy/peer.csv"
    bad.write_text("p, @owner, peer, fs.read, /**, allow\np, @owner, peer, fs.raed, /x, deny\n")

    told = book.reload()

    assert told.problems == (
        'policy/peer.csv:2:18: unknown action "fs.raed", did you mean "fs.read"?',
    )
    assert book.problems == told.problems
    assert not may(book, "fs.read", "/private"), "half a file is not used"
    assert may(book, "fs.read", "/shared/a"), "the rules before stay"

    bad.write_text("p, @owner, peer, fs.read, /**, allow\n")
    assert book.reload().added == 1
    assert book.problems == ()
    assert may(book, "fs.read", "/private")


def test_a_broken_file_at_the_start_denies_everything(home: Path) -> None:
    (home / "policy/peer.csv").write_text("p\n")
    book = open_book(home)

    assert book.problems
    assert not may(book, "fs.read", "/shared/a")


def test_a_file_that_is_emptied_in_the_midst_of_a_save_changes_nothing(home: Path) -> None:
    path = home / "policy/peer.csv"
    path.write_text("p, *, peer, fs.read, /shared/secret, deny\n")
    book = open_book(home)
    path.write_text("")

    assert "is empty" in book.reload().problems[0]
    assert not may(book, "fs.read", "/shared/secret")


def test_a_policy_directory_that_vanishes_changes_nothing(home: Path) -> None:
    book = open_book(home)
    (home / "policy").rename(home / "gone")

    assert book.reload().problems
    assert may(book, "fs.read", "/shared/a")


def test_a_test_that_fails_blocks_the_load_and_is_named(home: Path) -> None:
    book = open_book(home)
    path = home / "policy/peer.csv"
    path.write_text("#? deny laptop peer fs.read /x\np, laptop, peer, fs.read, /**, allow\n")

    assert book.reload().problems == (
        "policy/peer.csv:1: this test fails: deny was expected, but it is allowed, by"
        " policy/peer.csv:2 (p, laptop, peer, fs.read, /**, allow)",
    )
    path.write_text("#? allow gil@laptop peer fs.read /x\np, laptop, peer, fs.read, /**, allow\n")
    assert book.reload().problems == ()


def test_added_and_removed_lines_are_counted(home: Path) -> None:
    path = home / "policy/peer.csv"
    path.write_text("p, laptop, peer, fs.read, /a, allow\ng, laptop, @family\n")
    book = open_book(home)
    path.write_text("p, laptop, peer, fs.read, /b, allow\n")

    assert book.reload().added == 1
    path.write_text("# nothing\n")
    assert book.reload().removed == 1


def test_checking_reads_the_files_without_using_them(home: Path) -> None:
    book = open_book(home)
    (home / "policy/peer.csv").write_text("p, @friends, peer, fs.read, /**, allow\n")
    checked = book.check()

    assert checked.files == ("policy/default.csv", "policy/peer.csv")
    assert checked.rules == 11
    assert checked.problems == ()
    assert checked.warnings == ("policy/peer.csv:1: nobody is in @friends",)
    assert book.statistics()["rules"] == 10

    (home / "groups/friends").mkdir(parents=True)
    assert book.check().warnings == ()


def test_the_shipped_model_with_other_comments_is_still_the_shipped_model() -> None:
    assert is_shipped_model("# mine\n" + shipped_model().replace("\n\n", "\n"))
    assert not is_shipped_model(shipped_model().replace('== "*"', '== "* "'))


def test_a_changed_model_is_obeyed(home: Path) -> None:
    path = home / "model.conf"
    path.write_text(path.read_text().replace("m = ", 'm = r.obj != "/shared/a" && '))
    book = open_book(home)

    assert book.problems == ()
    assert not may(book, "fs.read", "/shared/a")
    assert may(book, "fs.read", "/shared/b")


@pytest.mark.parametrize("content", [b"m = nonsense(", b"\xff\xfe"])
def test_a_broken_model_keeps_the_last_good_rules(home: Path, content: bytes) -> None:
    book = open_book(home)
    (home / "model.conf").write_bytes(content)

    assert book.reload().problems[0].startswith("model.conf: ")
    assert may(book, "fs.read", "/shared/a")


def test_a_home_without_a_model_uses_the_shipped_one(home: Path) -> None:
    (home / "model.conf").unlink()

    assert may(open_book(home), "fs.read", "/shared/a")


def test_no_denied_request_slips_through_while_the_files_are_read_again(home: Path) -> None:
    path = home / "policy/peer.csv"
    deny = "p, *, peer, fs.read, /shared/secret, deny\n"
    path.write_text(deny)
    book = open_book(home)
    stop = threading.Event()
    slipped: list[str] = []

    def ask() -> None:
        while not stop.is_set():
            if may(book, "fs.read", "/shared/secret"):
                slipped.append("allowed")

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(60):
        rows = (f"p, a{n}, peer, fs.read, /x, allow\n" for n in range(number))
        path.write_text(deny + "".join(rows))
        assert book.reload().problems == ()
    stop.set()
    for thread in threads:
        thread.join()

    assert slipped == []
    assert book.statistics()["decisions"] > 60


def test_a_rule_that_holds_is_quoted_as_it_is_written(home: Path) -> None:
    line = "p, laptop, peer, script.run, *, hold"
    (home / "policy/peer.csv").write_text(f"{line}\n")
    book = open_book(home)
    assert book.reload().problems == ()
    asked = AccessRequest(OWN, "peer", "script.run", "sha256:00")
    held_by = book.held_by(asked)
    assert held_by is not None
    assert held_by.text == line
    assert may(book, "script.run", "sha256:00")
    texts = [rule.text for rule in book.rules.rules if rule.file == "policy/peer.csv"]
    assert texts == [line]
