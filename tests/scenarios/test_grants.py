"""docs/grants.md is what happens, between three real devices; and what does not happen."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, Printed, wait_until

PAGE = Path(__file__).parents[2] / "docs/grants.md"
PREFIX = "orvalho-grant:"
READ = "target.fs.read:/Pictures/**"


def script(need: str, body: str) -> str:
    return f'// /// orvalho\n// needs = ["{need}"]\n// ///\nexport default {body}\n'


NAMES = script(READ, '({ target }) => target.fs.list("/Pictures").then((found) => found[0].name)')
ONE = script(
    "target.fs.read:/Pictures/2024/**",
    '({ target }) => target.fs.readText("/Pictures/2024/a.txt")',
)


class Home:
    """A device that types where its files lie."""

    def __init__(self, top: Path, name: str) -> None:
        self.device = Device(name, top / name)
        self.files = top / f"{name}-files"
        self.files.mkdir()

    def begin(self) -> None:
        self.device.init()
        self.device.start()
        self.device.does("ctx", "new", "peer")

    def file(self, name: str, text: str) -> str:
        path = self.files / name
        path.write_text(text)
        return str(path)

    def types(self, *words: str) -> Printed:
        here = (
            re.sub(r"^(@?)([\w-]+\.(?:js|txt))$", rf"\1{self.files}/\2", word) for word in words
        )
        return self.device.types(*here, limit_s=90)

    def does(self, *words: str) -> str:
        printed = self.types(*words)
        assert printed.status == 0, printed
        return printed.out

    def sends(self, *words: str, code: str = ONE) -> Printed:
        return self.types("script", "send", "peer@alice", self.file("sent.js", code), *words)


Homes = tuple[Home, Home, Home]


@contextmanager
def three(top: Path) -> Iterator[Homes]:
    """Alice with pictures, bob and carol, all paired as guests."""
    alice, bob, carol = (Home(top, name) for name in ("alice", "bob", "carol"))
    try:
        for home in (alice, bob, carol):
            home.begin()
        for joiner, inviter in ((bob, alice), (carol, alice), (carol, bob)):
            ticket = inviter.does("peer", "invite", "--guest").strip().splitlines()[-1].strip()
            joiner.does("peer", "add", "--guest", ticket)
        wait_until(lambda: bob.device.online("alice") and bob.device.online("carol"), "bob is")
        wait_until(lambda: carol.device.online("alice"), "carol is linked")
        pictures = alice.device.tree("peer") / "Pictures/2024"
        pictures.mkdir(parents=True)
        (pictures / "a.txt").write_text("a picture")
        (alice.device.tree("peer") / "secret.txt").write_text("secret")
        yield alice, bob, carol
    finally:
        for home in (alice, bob, carol):
            home.device.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homes]:
    with three(tmp_path_factory.mktemp("homes")) as homes:
        yield homes


@pytest.fixture
def homes(shared: Homes) -> Iterator[Homes]:
    """The three of this file, as they were: no rule, and no grant that holds or is kept."""
    alice, bob, carol = shared
    policy = alice.device.policy("peer")
    before, rules = policy.read_text(), alice.device.rules()
    yield shared
    for link in alice.types("grant", "ls", "--json").json["links"]:
        if link["parent"] is None and link["state"] == "good":
            alice.does("grant", "revoke", link["grant"])
    for home in (bob, carol):
        for link in home.types("grant", "ls", "--json").json["links"]:
            if link["whence"] == "kept":
                home.does("grant", "rm", link["grant"])
    policy.write_text(before)
    wait_until(lambda: alice.device.rules() == rules, "the rules are as before")


def give(alice: Home, *words: str) -> str:
    """A grant of alice's in her context, as a text."""
    words = words if "--needs" in words else (*words, "--needs", READ)
    return alice.does("grant", "new", "--context", "peer", *words).strip()


def last_of(home: Home) -> str:
    """The id of the newest link that a device knows."""
    links = home.device.types("grant", "ls", "--json").json["links"]
    return str(max(links, key=lambda link: link["made_at"])["grant"])


def test_the_session_goes_as_the_page_tells_it(homes: Homes) -> None:
    alice, bob, carol = homes
    for home in (bob, carol):
        home.file("names.js", NAMES)
        home.file("one.js", ONE)
    assert bob.sends().status == 3, "no rule lets him"
    text = PAGE.read_text().split("## A session", 1)[1].split("\n## ", 1)[0]
    by_name = {"alice": alice, "bob": bob, "carol": carol}
    steps = re.findall(r"^(alice|bob|carol)\$ orvalho (.*)\n(.*)$", text, re.MULTILINE)
    assert len(steps) == 11
    for who, command, told in steps:
        words = [last_of(alice) if word == "CAROLS" else word for word in shlex.split(command)]
        printed = by_name[who].types(*words)
        assert told in printed.out + printed.err, (command, printed)
        if words[1] == "new":
            for home in (bob, carol):
                home.file("grant.txt", printed.out)
        if words[1] == "narrow":
            carol.file("small.txt", printed.out)
    assert (
        carol.types("script", "send", "--grant", "@small.txt", "peer@alice", "one.js").status == 6
    )


def test_decision_receipt_audit_and_why_name_the_grant(homes: Homes) -> None:
    alice, bob, _ = homes
    text = give(alice, "--to", "bob")
    assert bob.sends("--grant", text).json == "a picture"
    run = alice.types("script", "ls", "--json").json["runs"][0]["run"]
    grant = last_of(alice)
    why = alice.does("why", run)
    assert f"grant {grant}  {READ}, to bob" in why
    assert f"grant {grant}  script.run, to bob" in why
    tried = alice.types("script", "show", run, "--json").json["receipt"]
    assert tried is not None
    assert f"[grant {grant}]" in alice.does("audit")
    links = alice.types("grant", "ls", "--json").json["links"]
    state = next(link for link in links if link["grant"] == grant)
    assert (state["used"], state["state"], state["to"]) == (1, "good", "bob")
    assert ", peer, fs.read, /Pictures/**, allow\n" in alice.does("grant", "ls", "--as-policy")


def test_a_deny_wins_and_each_call_is_asked_about(homes: Homes) -> None:
    alice, bob, _ = homes
    text = give(alice, "--to", "bob", "--needs", "target.fs.read:/**")
    alice.device.allow("p, *, peer, fs.read, /Pictures/2024/**, deny")
    assert bob.sends("--grant", text).status == 3
    code = script(
        "target.fs.read:/**", '({ target }) => target.fs.readText("/Pictures/2024/a.txt")'
    )
    assert bob.sends("--grant", text, code=code).status == 3
    code = script("target.fs.read:/**", '({ target }) => target.fs.readText("/secret.txt")')
    assert bob.sends("--grant", text, code=code).json == "secret"
    code = script("target.fs.write:/**", '({ target }) => target.fs.writeText("/x", "x")')
    assert bob.sends("--grant", text, code=code).status == 3


def test_grants_that_do_not_hold_are_refused_with_the_reason(homes: Homes) -> None:
    alice, bob, carol = homes
    text = give(alice, "--to", "bob")

    def refused(home: Home, grant: str, reason: str) -> None:
        printed = home.sends("--grant", grant)
        assert printed.status == 6, printed
        assert reason in printed.err
        assert "a picture" not in printed.out

    refused(carol, text, "is for bob, not for who signed this script")
    # Of another node: carol gives herself what is alice's to give.
    own = carol.does("grant", "new", "--to", "carol", "--context", "peer", "--needs", READ).strip()
    refused(carol, own, "signatures do not hold")
    # The same behind alice's key: what is pasted claims it, nothing is believed of that.
    raw = bytearray(base64.urlsafe_b64decode(text.removeprefix(PREFIX) + "=="))
    theirs = base64.urlsafe_b64decode(own.removeprefix(PREFIX) + "==")
    mixed = base64.urlsafe_b64encode(bytes(raw[:32]) + theirs[32:]).decode()
    refused(carol, PREFIX + mixed, "signatures do not hold")
    raw[120] ^= 1
    refused(bob, PREFIX + base64.urlsafe_b64encode(raw).decode(), "signatures do not hold")
    refused(bob, text[:-40], "signatures do not hold")
    assert alice.does("grant", "ls").count("never") == 1, "none of them was used"
    run = alice.types("script", "ls", "--json").json["runs"][0]["run"]
    assert "the grant's signatures do not hold" in alice.does("why", run)
    # What does not hold takes nothing away either.
    alice.device.allow(
        "p, carol, peer, script.run, *, allow", "p, carol, peer, fs.read, /Pictures/**, allow"
    )
    assert carol.sends("--grant", text).json == "a picture"


def test_a_grant_ends_and_is_for_so_many_runs_and_for_one_script(homes: Homes) -> None:
    alice, bob, _ = homes
    short = give(alice, "--to", "bob", "--until", "1s")
    wait_until(
        lambda: bob.types("grant", "show", short, "--json").json["state"] == "ended", "it ends"
    )
    printed = bob.sends("--grant", short)
    assert (printed.status, "has ended" in printed.err) == (6, True), printed

    once = give(alice, "--to", "bob", "--uses", "1")
    assert bob.sends("--grant", once).json == "a picture"
    assert bob.sends("--grant", once).status == 3

    planned = give(alice, "--to", "bob", "--uses", "1")
    assert bob.sends("--grant", planned, "--plan").status == 0
    printed = bob.sends("--grant", planned, "--plan")
    assert printed.status == 3, "a plan reads what it is granted, and its sender has it"

    bound = give(alice, "--to", "bob", "--run", alice.file("one.js", ONE))
    assert bob.sends("--grant", bound).json == "a picture"
    assert bob.sends("--grant", bound, code=ONE + "// and more\n").status == 3


def test_a_script_with_modules_is_bound_with_them(homes: Homes) -> None:
    alice, bob, _ = homes
    main = script(READ, "({ target }) => target.fs.readText(path)")
    main = main.replace("// ///\nexport", '// ///\nimport { path } from "./where.js";\nexport')
    for home in (alice, bob):
        home.file("where.js", 'export const path = "/Pictures/2024/a.txt";\n')
        home.file("main.js", main)
    bound = give(alice, "--to", "bob", "--run", str(alice.files / "main.js"))
    words = ("script", "send", "--grant", bound, "peer@alice", "main.js")
    printed = bob.types(*words)
    assert printed.status == 0, printed
    assert printed.json == "a picture"
    bob.file("where.js", 'export const path = "/Pictures/2024";\n')
    assert bob.types(*words).status == 3


def test_bearers_are_told_and_whoever_has_the_text_may(homes: Homes) -> None:
    alice, _, carol = homes
    printed = alice.types("grant", "new", "--context", "peer", "--needs", READ)
    assert "WARNING  whoever comes by this text has the right" in printed.err
    carol.does("grant", "keep", printed.out.strip())
    assert carol.sends().json == "a picture"


def test_a_context_holds_what_is_given_to_it_and_no_other_of_its_node(homes: Homes) -> None:
    alice, bob, _ = homes
    text = give(alice, "--to", "peer@bob")
    assert bob.sends("--grant", text, "--as", "peer").json == "a picture"
    assert bob.sends("--grant", text, "--as", "root").status == 6
    bob.does("grant", "keep", text)
    assert bob.sends("--as", "root").status == 3, "it is not sent along in vain"
    assert bob.sends("--as", "peer").json == "a picture"


def test_only_who_issued_it_revokes_and_a_restart_forgets_nothing(homes: Homes) -> None:
    alice, bob, _ = homes
    text = give(alice, "--to", "bob")
    bob.does("grant", "keep", text)
    printed = bob.types("grant", "revoke", text)
    assert (printed.status, "alice can revoke it" in printed.err) == (2, True)
    assert alice.types("grant", "rm", text).status == 2
    alice.does("grant", "revoke", text)
    alice.device.kill()
    alice.device.start()
    wait_until(lambda: bob.device.online("alice"), "they are linked again")
    printed = bob.sends()
    assert (printed.status, "was revoked" in printed.err) == (6, True), printed
    bob.does("grant", "rm", text)
    links = bob.types("grant", "ls", "--json").json["links"]
    assert "kept" not in {link["whence"] for link in links}


def test_without_rules_that_could_be_read_no_grant_counts(homes: Homes) -> None:
    alice, bob, _ = homes
    text = give(alice, "--to", "bob")
    policy = alice.device.policy("peer")
    good = policy.read_text()
    alice.device.stop()
    policy.write_text("p, bob, peer, fs.raed, /**, deny\n")
    alice.device.start()
    wait_until(lambda: bob.device.online("alice"), "they are linked again")
    assert bob.sends("--grant", text).status == 3
    policy.write_text(good)
    wait_until(lambda: bob.sends("--grant", text).status == 0, "the rules are read again")


def test_keys_that_change_and_peers_that_go(tmp_path: Path) -> None:
    """A holder that changes its key keeps its grants, but not what it handed on with the old one;
    an issuer that changes its own takes nothing back; and what went through a peer that is no more
    is refused."""
    with three(tmp_path) as (alice, bob, carol):
        text = give(alice, "--to", "bob")
        small = bob.does("grant", "narrow", text, "--to", "carol").strip()
        assert carol.sends("--grant", small).json == "a picture"

        changed(bob, "alice")
        wait_until(lambda: bob.sends("--grant", text).status == 0, "bob's own holds")
        printed = carol.sends("--grant", small)
        assert (printed.status, "has changed since" in printed.err) == (6, True), printed
        printed = bob.types("grant", "narrow", text, "--to", "carol")
        assert (printed.status, "the key that this node had before" in printed.err) == (2, True)

        again = bob.does("grant", "narrow", give(alice, "--to", "bob"), "--to", "carol").strip()
        changed(alice, "carol")
        carol.does("grant", "keep", again)
        wait_until(lambda: carol.sends().status == 0, "alice's key is not that of her grants")

        alice.does("peer", "rm", "bob", "-y")
        printed = carol.sends()
        assert (printed.status, "a key that is refused here" in printed.err) == (6, True), printed


def changed(home: Home, peer: str) -> None:
    """Change the node key; the daemon starts anew with it."""
    old = home.types("key", "show", "--json").json["key"]
    # Mail that waits to be acknowledged holds it back.
    wait_until(lambda: home.types("key", "rotate", "-y").status == 0, "the key is changed")
    wait_until(lambda: home.device.online(peer), "it is linked again")
    assert home.types("key", "show", "--json").json["key"] != old
