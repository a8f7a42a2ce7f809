"""What narrows a run beside the rules: its sender, itself, a broker, switches of its context."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.devices import Device, two_devices, wait_until
from tests.scenarios.test_why import decided, reads, script, send, why


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("rights")) as found:
        laptop, phone = found
        laptop.does("ctx", "new", "gil")
        phone.allow(
            "p, gil@laptop, peer, script.run, *, allow",
            "p, gil@laptop, peer, fs.read, /**, allow",
            "p, gil@laptop, peer, fs.write, /**, allow",
            "p, gil@laptop, peer, kv.write, *, allow",
            "p, gil@laptop, peer, kv.read, *, allow",
        )
        tree = phone.tree("peer")
        (tree / "shared/secret").mkdir(parents=True)
        (tree / "shared/secret/key").write_text("42")
        (tree / "shared/a.txt").write_text("hello")
        yield laptop, phone


def settle(device: Device, key: str, value: str) -> None:
    device.does("config", "set", key, value)


# ---- the sender narrows its own script ----------------------------------------------------------


def test_what_the_sender_denies_is_refused_and_the_rest_is_not(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    deny = ("--deny", "target.fs.read:/shared/secret/**")
    printed, _ = send(laptop, reads("/shared/a.txt"), *deny)
    assert (printed.status, printed.out) == (0, '"hello"\n'), printed
    printed, run = send(laptop, reads("/shared/secret/key"), *deny)
    assert (printed.status, "its sender denied it" in printed.err) == (3, True), printed
    reply = why(phone, run)
    refused = decided(reply, "fs.read", "/shared/secret/key")
    assert (refused["by"], refused["edit"]["changes"][0]["old"]) == (
        "narrowed",
        "--deny target.fs.read:/shared/secret/**",
    )
    assert any(each["name"] == "denied" for each in reply["chain"])


def test_a_list_over_what_is_denied_is_refused_as_well(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    source = script("export default async ({ target }) => target.kv.list('')", "target.kv.read:**")
    assert send(laptop, source)[0].status == 0
    printed, _ = send(laptop, source, "--deny", "target.kv.read:secret*")
    assert (printed.status, "its sender denied it" in printed.err) == (3, True), printed


def test_what_the_sender_denies_of_its_own_tree_its_own_side_refuses(
    devices: tuple[Device, Device],
) -> None:
    laptop, _ = devices
    (laptop.tree("gil") / "own").mkdir(exist_ok=True)
    (laptop.tree("gil") / "own/a").write_text("mine")
    source = script(
        "export default async ({ caller }) => caller.fs.readText('/own/a')",
        "caller.fs.read:/own/**",
    )
    expose = ("--expose", "/own")
    assert send(laptop, source, *expose)[0].out == '"mine"\n'
    printed, _ = send(laptop, source, *expose, "--deny", "caller.fs.read:/own/a")
    assert (printed.status, "its sender denied it" in printed.err) == (3, True), printed


@pytest.mark.parametrize("deny", ["fs.read:/x", "target.fs.raed:/x", "target.fs.read:x", "*"])
def test_a_word_to_deny_that_is_none(devices: tuple[Device, Device], deny: str) -> None:
    laptop, _ = devices
    assert send(laptop, reads("/shared/a.txt"), "--deny", deny)[0].status == 2


# ---- the script narrows itself ------------------------------------------------------------------

DROPS = """\
export default async ({ target }) => {
  const before = await target.rights.list();
  await target.fs.write('/a', 'x');
  await target.rights.drop('fs.write');
  const after = await target.rights.list();
  const said = [];
  for (const again of [
    () => target.fs.write('/a', 'y'),
    () => target.fs.mkdir('/b'),
    () => target.fs.move('/a', '/b'),
  ]) {
    try { await again(); said.push('done') } catch (error) { said.push(error.message) }
  }
  return { before, after, said, still: await target.fs.readText('/a') };
}
"""


def test_what_a_script_drops_stays_dropped(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    needs = ("target.fs.read:/**", "target.fs.write:/**", "target.fs.remove:/**")
    phone.allow("p, gil@laptop, peer, fs.remove, /**, allow")
    printed, run = send(laptop, script(DROPS, *needs))
    assert printed.status == 0, printed
    result = json.loads(printed.out)
    assert result["before"] == list(needs)
    assert result["after"] == ["target.fs.read:/**", "target.fs.remove:/**"]
    assert [each.endswith("dropped by the script itself") for each in result["said"]] == [True] * 3
    assert result["still"] == "x"
    assert decided(why(phone, run), "fs.write", "/b")["by"] == "dropped"


@pytest.mark.parametrize(
    "attack",
    [
        "target.rights.drop()",
        "target.rights.drop('everything')",
        "target.rights.drop(['fs.write'])",
        "target.rights.drop('fs.write:../x')",
        "target.rights.drop({})",
    ],
)
def test_a_drop_that_is_none_is_told_and_drops_nothing(
    devices: tuple[Device, Device], attack: str
) -> None:
    laptop, _ = devices
    body = f"""\
export default async ({{ target }}) => {{
  try {{ await {attack}; return 'taken' }} catch (error) {{
    await target.fs.write('/c', 'x');
    return error.name;
  }}
}}
"""
    printed, _ = send(laptop, script(body, "target.fs.write:/**"))
    assert (printed.status, printed.out) == (0, '"InvalidInput"\n'), printed


def test_no_trick_of_the_guest_gives_a_right_back(devices: tuple[Device, Device]) -> None:
    """Whatever it does to its own objects: the drop lies on the other side."""
    laptop, _ = devices
    body = """\
export default async ({ target }) => {
  await target.rights.drop('fs');
  const said = [];
  for (const trick of [
    () => { target.rights = undefined },
    () => { delete target.rights },
    () => target.rights?.drop?.('-fs.write'),
    () => target.rights?.drop?.('fs.write:'),
  ]) { try { await trick() } catch {} }
  try { await target.fs.write('/d', 'x'); said.push('written') } catch (e) { said.push(e.name) }
  return said;
}
"""
    printed, _ = send(laptop, script(body, "target.fs.write:/**"))
    assert (printed.status, printed.out) == (0, '["Denied"]\n'), printed


def test_starlark_drops_as_well(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    source = """\
# /// orvalho
# needs = ["target.kv.write:*"]
# ///
def main(job):
  job.target.rights.drop("kv")
  return [job.target.rights.list(), job.attempt("target.kv.put", "a", 1).error.message]
"""
    printed, _ = send(laptop, source, name="job.star")
    assert printed.status == 0, printed
    assert json.loads(printed.out) == [[], "target.kv.write a: dropped by the script itself"]


# ---- deny beats grant ---------------------------------------------------------------------------


def test_a_deny_of_the_owner_beats_every_allow_and_every_need(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    phone.allow("p, *, *, fs.read, /shared/secret/**, deny")
    printed, run = send(laptop, reads("/shared/secret/key", "target.fs.read:/**"))
    assert printed.status == 3
    refused = decided(why(phone, run), "fs.read", "/shared/secret/key")
    assert "deny" in refused["text"]
    assert any(e["effect"] == "allow" and not e["differs"] for e in refused["tried"])


# ---- a broker -----------------------------------------------------------------------------------

Answer = Callable[[socket.socket, dict[str, Any]], None]


class Broker:
    """A program of the owner's, behind a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[dict[str, Any]] = []
        self.answer: Answer = says({"decision": "allow"})
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        path.chmod(0o600)
        self._server.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with peer:
            line = b""
            while not line.endswith(b"\n"):
                more = peer.recv(4096)
                if not more:
                    return
                line += more
            question = json.loads(line)
            self.asked.append(question)
            try:
                self.answer(peer, question)
            except OSError:
                return


def says(answer: object) -> Answer:
    return lambda peer, _question: peer.sendall(json.dumps(answer).encode() + b"\n")


def sends(raw: bytes) -> Answer:
    return lambda peer, _question: peer.sendall(raw)


def floods(peer: socket.socket, _question: object) -> None:
    for _ in range(100_000):
        peer.sendall(b"x" * 4096)


def hangs(peer: socket.socket, _question: object) -> None:
    peer.recv(1)  # until the other side gives up


@contextmanager
def broker_for(phone: Device, *actions: str) -> Iterator[Broker]:
    broker = Broker(phone.home / "b.sock")
    try:
        settle(phone, "policy.broker.timeout", "500ms")
        settle(phone, "policy.broker.socket", str(broker.path))
        settle(phone, "policy.broker.actions", json.dumps(actions))
        yield broker
    finally:
        settle(phone, "policy.broker.actions", "[]")
        broker.close()


WRITES = script(
    "export default async ({ target }) => { await target.fs.write('/w', 'x'); return 'written' }",
    "target.fs.write:/**",
)


def test_the_broker_is_asked_after_the_rules_and_its_text_is_the_reason(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    with broker_for(phone, "fs.write") as broker:
        assert send(laptop, WRITES)[0].out == '"written"\n'
        (asked,) = broker.asked
        assert (asked["version"], asked["actor"], asked["context"]) == (1, "gil@laptop", "peer")
        assert (asked["action"], asked["object"]) == ("fs.write", "/w")
        assert asked["rule"].startswith("policy/peer.csv:")
        assert send(laptop, reads("/shared/a.txt"))[0].status == 0
        assert len(broker.asked) == 1, "it is asked for what its setting names alone"
        broker.answer = says({"decision": "deny", "text": "not on a Sunday \u001b[31m"})
        printed, run = send(laptop, WRITES)
        assert (printed.status, "not on a Sunday" in printed.err) == (3, True), printed
        assert "\x1b" not in printed.err
    refused = [e for e in why(phone, run)["explained"] if e["by"] == "broker"]
    assert [e["reason"] for e in refused] == ["not on a Sunday [31m"]
    entries = phone.does("audit", "--run", run, "--refused", "--json").splitlines()
    assert [json.loads(e)["cause"] for e in entries if "broker" in e] == ["broker"]


def test_what_the_rules_refuse_the_broker_never_hears_of(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    with broker_for(phone, "fs.read") as broker:
        assert send(laptop, reads("/shared/secret/key", "target.fs.read:/**"))[0].status == 3
        assert broker.asked == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (hangs, "did not answer within 500ms"),
        (lambda _peer, _question: None, "went away without an answer"),
        (floods, "more than 4096 bytes"),
        (sends(b"yes\n"), "neither allow nor deny"),
        (sends(b"\xff\xfe\n"), "neither allow nor deny"),
        (sends(b"[" * 4000 + b"\n"), "neither allow nor deny"),
        (says({"decision": "ALLOW"}), "neither allow nor deny"),
        (says({"allowed": True}), "neither allow nor deny"),
        (says(["allow"]), "neither allow nor deny"),
        (sends(b'{"decision":"allow"}'), "without an answer"),
    ],
)
def test_a_broker_that_does_not_answer_as_it_should_denies(
    devices: tuple[Device, Device], answer: Answer, reason: str
) -> None:
    laptop, phone = devices
    with broker_for(phone, "fs.write") as broker:
        broker.answer = answer
        printed, _ = send(laptop, WRITES)
        assert (printed.status, reason in printed.err) == (3, True), printed
        # It holds nobody else up.
        assert send(laptop, reads("/shared/a.txt"))[0].status == 0


def test_a_broker_that_is_not_there_or_not_its_owners_alone_denies(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    with broker_for(phone, "fs.write", "script.run") as broker:
        broker.path.chmod(0o666)
        printed, _ = send(laptop, WRITES)
        assert (printed.status, "chmod 600" in printed.err) == (3, True), printed
        broker.path.chmod(0o600)
        moved = broker.path.with_name("moved.sock")
        broker.path.rename(moved)
        printed, _ = send(laptop, WRITES)
        assert (printed.status, "does not listen" in printed.err) == (3, True), printed
        broker.path.symlink_to(moved)
        printed, _ = send(laptop, WRITES)
        assert (printed.status, "is no socket" in printed.err) == (3, True), printed
        broker.path.unlink()
        broker.path.write_text("")
        assert send(laptop, WRITES)[0].status == 3
        moved.replace(broker.path)
        assert send(laptop, WRITES)[0].status == 0
        assert {each["action"] for each in broker.asked} == {"script.run", "fs.write"}


def test_a_folder_is_removed_once_the_broker_has_let_each_of_it_go(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    phone.allow("p, gil@laptop, peer, fs.remove, /many/**, allow")
    body = """\
export default async ({ target }) => {
  await target.fs.remove('/many', { recursive: true });
}
"""
    remove = script(body, "target.fs.remove:/many/**")
    folder = phone.tree("peer") / "many"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}").write_text("x")

    def keeps_7(peer: socket.socket, question: dict[str, Any]) -> None:
        says({"decision": "deny" if question["object"] == "/many/7" else "allow"})(peer, question)

    with broker_for(phone, "fs.remove") as broker:
        broker.answer = keeps_7
        assert send(laptop, remove)[0].status == 3
        assert len(list(folder.iterdir())) == 20, "nothing of it was done"
        broker.answer = says({"decision": "allow"})
        assert send(laptop, remove)[0].status == 0
        assert not folder.exists()
        folder.mkdir()
        for number in range(300):
            (folder / f"{number}").write_text("x")
        printed, run = send(laptop, remove)
        assert (printed.status, "reaches too much" in printed.err) == (3, True), printed
        assert len(list(folder.iterdir())) == 300
    assert [e["by"] for e in why(phone, run)["explained"] if not e["allowed"]] == ["broker"]


def test_our_own_broker_guards_our_tree_from_the_target(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    (laptop.tree("gil") / "mine").mkdir(exist_ok=True)
    source = script(
        "export default async ({ caller }) => { await caller.fs.write('/mine/a', 'x') }",
        "caller.fs.write:/mine/**",
    )
    with broker_for(laptop, "fs.write") as broker:
        broker.answer = says({"decision": "deny", "text": "hands off"})
        printed, _ = send(laptop, source, "--expose", "/mine:rw")
        assert (printed.status, "hands off" in printed.err) == (3, True), printed
        assert broker.asked[0]["actor"] == "peer@phone2"
        assert not (laptop.tree("gil") / "mine/a").exists()


def test_many_questions_to_a_broker_that_hangs_hold_nothing_else_up(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    body = """\
export default async ({ target }) => {
  const tries = Array.from({ length: 100 }, (_, n) =>
    target.fs.write('/h' + n, 'x').then(() => 'written', (e) => e.name));
  return [...new Set(await Promise.all(tries))];
}
"""
    with broker_for(phone, "fs.write") as broker:
        broker.answer = hangs
        printed, _ = send(laptop, script(body, "target.fs.write:/**"))
        assert (printed.status, printed.out) == (0, '["Denied"]\n'), printed
        assert phone.types("status").status == 0


def test_a_file_that_is_sent_takes_the_brokers_leave_too(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    picture = laptop.home / "p.jpg"
    picture.write_bytes(b"p")
    with broker_for(phone, "fs.write") as broker:
        broker.answer = says({"decision": "deny", "text": "no pictures"})
        printed = laptop.types("file", "send", str(picture), "peer@phone2:/", "--as", "gil")
        assert (printed.status, "no pictures" in printed.err) == (3, True), printed
        assert not (phone.tree("peer") / "p.jpg").exists()


def test_the_setting_of_a_broker_is_checked(devices: tuple[Device, Device]) -> None:
    _, phone = devices
    for key, value, says_ in (
        ("policy.broker.actions", '["fs.wirte"]', "is not of the form"),
        ("policy.broker.timeout", "2h", "from 10ms to 1m"),
        ("policy.broker.socket", "b.sock", "begins with /"),
    ):
        printed = phone.types("config", "set", key, value)
        assert (printed.status, says_ in printed.err) == (2, True), printed


def test_the_broker_is_asked_before_a_script_calls_another_node(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    phone.allow("p, gil@laptop, peer, node.call, *, allow")
    call = script(
        "export default ({ target }) => target.node.call('add@laptop', 'add', [2, 3])",
        "target.node.call:*",
    )
    with broker_for(phone, "node.call") as broker:
        printed, run = send(laptop, call)
        assert "there is no library" in printed.err, "it was let through"
        (asked,) = broker.asked
        assert (asked["action"], asked["object"], asked["run"]) == ("node.call", "add@laptop", run)
        broker.answer = says({"decision": "deny", "text": "stay at home"})
        printed, _ = send(laptop, call)
        assert (printed.status, "stay at home" in printed.err) == (3, True), printed


def test_the_broker_is_asked_before_another_device_reads_through_its_mount(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    laptop.does("ctx", "mount", "gil:/phone", "peer@phone2:/shared")
    try:
        with broker_for(phone, "fs.read") as broker:
            assert "a.txt" in laptop.does("ctx", "ls", "/gil/phone")
            assert {each["action"] for each in broker.asked} == {"fs.read"}
            broker.answer = says({"decision": "deny", "text": "not by a mount"})
            refused = laptop.types("ctx", "ls", "/gil/phone/letters")
            assert (refused.status, "not by a mount" in refused.err) == (3, True), refused
    finally:
        laptop.does("ctx", "umount", "gil:/phone")


# ---- switched off -------------------------------------------------------------------------------


@contextmanager
def disabled(phone: Device, *words: str) -> Iterator[None]:
    settle(phone, "contexts.peer.disabled", json.dumps(words))
    try:
        yield
    finally:
        settle(phone, "contexts.peer.disabled", "[]")


@pytest.mark.parametrize(
    ("word", "body", "place"),
    [
        ("eval", "export default () => eval('1')", "job.js:4:22: eval"),
        ("eval", "export default () => new Function('return 1')()", "job.js:4:26: Function"),
        ("WebAssembly", "export default () => typeof WebAssembly", "job.js:4:29: WebAssembly"),
        ("timers", "export default () => setTimeout(() => 1, 1)", "job.js:4:22: setTimeout"),
        ("kv", "export default ({target}) => target.kv.get('a')", "job.js:4:30: target.kv"),
        (
            "fs.write",
            "export default (j) => j.target.fs.mkdir('/a')",
            "job.js:4:23: target.fs.mkdir",
        ),
    ],
)
def test_a_word_that_is_switched_off_is_named_with_its_place_before_anything_runs(
    devices: tuple[Device, Device], word: str, body: str, place: str
) -> None:
    laptop, phone = devices
    source = script(body)
    with disabled(phone, word):
        printed, run = send(laptop, source)
        where, _, name = place.partition(": ")
        assert printed.status == 3, printed
        assert f"{name} is switched off in this context" in printed.err
        assert where in printed.err
        assert [e["by"] for e in why(phone, run)["explained"]] == ["rule", "disabled"]
        file = phone.home / "job.js"
        file.write_text(source)
        checked = phone.types("script", "check", str(file), "--for", "peer@phone2")
        assert (checked.status, place in checked.out) == (2, True), checked
    assert phone.types("script", "check", str(file), "--for", "peer@phone2").status == 0


def test_a_module_and_types_hide_no_word(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    (laptop.home / "part.ts").write_text("export const made: number = 1;\neval('2');\n")
    with disabled(phone, "eval"):
        source = "import { made } from './part.ts';\nexport default (): number => made;\n"
        printed, _ = send(laptop, source, name="job.ts")
        assert (printed.status, "part.ts:2:1" in printed.err) == (3, True), printed


def test_a_need_of_what_is_switched_off_is_named_in_the_header(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    with disabled(phone, "kv"):
        printed, _ = send(laptop, script("1", "target.kv.read:a"))
        assert (printed.status, "job.js:2:" in printed.err) == (3, True), printed


def test_what_hides_from_the_check_finds_nothing_there(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    body = """\
export default async (job) => {
  const t = job['tar' + 'get'], g = globalThis, said = {};
  said.kv = t['k' + 'v'] === undefined;
  said.write = t.fs['wri' + 'te'] === undefined;
  said.read = typeof t.fs.read;
  for (const name of ['ev' + 'al', 'Func' + 'tion', 'Web' + 'Assembly', 'set' + 'Timeout'])
    said[name] = typeof g[name];
  const kinds = [() => 1, async () => 1, function* () {}, async function* () {}, class {}];
  said.made = kinds.map((f) => {
    try { return typeof f['con' + 'structor']('return 1') } catch (e) { return e.name }
  });
  said.built = kinds.map((f) => {
    try { return typeof Reflect.construct(f.constructor, ['return 1']) } catch (e) { return e.name }
  });
  const proto = Object.getPrototypeOf(async () => 1);
  try { proto.constructor = 1 } catch {}
  try { delete proto.constructor } catch {}
  said.kept = typeof proto.constructor;
  return said;
}
"""
    with disabled(phone, "eval", "kv", "fs.write", "WebAssembly", "timers"):
        printed, _ = send(laptop, script(body))
        assert printed.status == 0, printed
        said = json.loads(printed.out)
        assert (said["kv"], said["write"], said["read"]) == (True, True, "function")
        assert {said[n] for n in ("eval", "Function", "WebAssembly", "setTimeout")} == {"undefined"}
        assert said["made"] == ["TypeError"] * 5
        assert said["built"] == ["TypeError"] * 5
        assert said["kept"] == "function"


def test_a_call_that_is_switched_off_is_not_there_in_any_language(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    source = """\
def main(job):
  return job.attempt("target.kv.put", "a", 1).error.message
"""
    with disabled(phone, "kv"):
        printed, _ = send(laptop, source, name="job.star")
        assert (printed.status, "there is no operation" in printed.out) == (0, True), printed
    with disabled(phone, "node"):
        printed, _ = send(laptop, source.replace("kv.put", "node.call"), name="job.star")
        assert (printed.status, "there is no operation" in printed.out) == (0, True), printed


def test_a_word_that_switches_nothing_off_is_told_with_its_line(
    devices: tuple[Device, Device],
) -> None:
    _, phone = devices
    printed = phone.types("config", "set", "contexts.peer.disabled", '["evil"]')
    assert (printed.status, 'did you mean "eval"' in printed.err) == (2, True), printed
    printed = phone.types("config", "set", "contexts.peer.disbled", '["eval"]')
    assert printed.status == 2, printed


# ---- audit --------------------------------------------------------------------------------------


def test_the_log_is_asked_for_by_who_what_where_and_how(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    send(laptop, reads("/shared/a.txt"))
    send(laptop, reads("/nowhere/x", "target.fs.read:/shared/**"))

    def entries(*words: str) -> list[dict[str, Any]]:
        printed = phone.does("audit", "--limit", "100000", "--json", *words)
        return [json.loads(line) for line in printed.splitlines()]

    wait_until(lambda: bool(entries("--refused", "--actor", "gil@laptop")), "it is written")
    for words, holds in (
        (("--actor", "gil@laptop"), lambda e: e["actor"] == "gil@laptop"),
        (("--actor", "laptop"), lambda e: e["actor"].endswith("@laptop")),
        (("--action", "fs.read"), lambda e: e["action"] == "fs.read"),
        (("--action", "fs"), lambda e: e["action"].startswith("fs.")),
        (("--context", "peer"), lambda e: e["context"] == "peer"),
        (("--allowed",), lambda e: e["allowed"]),
        (("--refused",), lambda e: not e["allowed"]),
    ):
        found = entries(*words)
        assert found and all(map(holds, found)), words
        assert len(found) == len([e for e in entries() if holds(e)]), words
    assert entries("--actor", "' or 1 --") == []
    assert entries("--since", "1h") == entries()
    assert entries("--actor", "nobody") == []
