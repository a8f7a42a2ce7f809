"""A signed script: what holds, and one test for each way in which somebody could cheat."""

from __future__ import annotations

import base64
import time
from dataclasses import replace

import msgspec
import pytest

from orvalho.contexts.identity import Identity, Signer, certify, key_text
from orvalho.errors import InvalidInput, Untrusted
from orvalho.policies.quota import Asked
from orvalho.scripts.dsse import open_sealed, seal
from orvalho.scripts.modules import digest_of
from orvalho.scripts.receipts import PAYLOAD_TYPE as RECEIPT_TYPE
from orvalho.scripts.script import make_script
from orvalho.scripts.signing import (
    LIFE_S,
    MAX_ENVELOPE_BYTES,
    MAX_LIFE_S,
    MAX_PARAMS_BYTES,
    PAYLOAD_TYPE,
    Call,
    Parts,
    denies_of,
)
from tests.scripts.scene import NOW, SOURCE, Scene, caller_on, make_scene


def payload_of(envelope: bytes) -> bytes:
    return base64.b64decode(msgspec.json.decode(envelope)["payload"])


def outer(envelope: bytes) -> dict:
    return msgspec.json.decode(envelope)


def resealed(scene: Scene, payload: bytes, signer: Signer | None = None) -> bytes:
    return seal(signer or scene.laptop.context("gil"), PAYLOAD_TYPE, payload)


def changed(scene: Scene, **fields: object) -> bytes:
    """What a caller who may sign anything would sign."""
    call = msgspec.json.decode(payload_of(scene.sign().envelope), type=Call)
    return resealed(scene, msgspec.json.encode(msgspec.structs.replace(call, **fields)))


def test_what_was_signed_is_what_is_verified(scene: Scene) -> None:
    verified = scene.verify(scene.sign().envelope)

    assert verified.script == scene.script
    assert verified.params == b'{"album": 7}'
    assert verified.caller_node == scene.laptop.node.key
    assert verified.signed_by == scene.laptop.context("gil").key
    assert [str(need) for need in verified.needs] == ["target.fs.read:/photos/**"]
    assert verified.call.limits == Asked(wall_s=30)
    assert verified.call.caller.context == "gil"
    assert verified.call.expires_at == NOW + LIFE_S


@pytest.mark.parametrize(
    "less", [{"plan": True}, {"parts": Parts(denies=("target.fs.read:/photos/secret/**",))}]
)
def test_who_does_not_know_that_a_call_is_to_do_less_refuses_it(
    scene: Scene, less: dict[str, object]
) -> None:
    envelope = scene.sign(**less).envelope
    with pytest.raises(Untrusted, match="this envelope holds"):
        open_sealed(envelope, PAYLOAD_TYPE, max_bytes=MAX_ENVELOPE_BYTES)
    call = scene.verify(envelope).call
    assert call.plan or call.denies


def test_a_byte_that_is_flipped_anywhere_is_noticed(scene: Scene) -> None:
    envelope = scene.sign().envelope

    for at in range(0, len(envelope), 3):
        for bit in (0x01, 0x20):
            flipped = bytearray(envelope)
            flipped[at] ^= bit
            with pytest.raises(Untrusted):
                scene.verify(bytes(flipped))


def test_an_envelope_that_is_cut_anywhere_is_refused(scene: Scene) -> None:
    envelope = scene.sign().envelope

    for length in range(0, len(envelope), 7):
        with pytest.raises(Untrusted):
            scene.verify(envelope[:length])


@pytest.mark.parametrize(("late_s", "holds"), [(-60, True), (59, True), (61, False), (1e9, False)])
def test_a_script_expires(scene: Scene, late_s: float, holds: bool) -> None:
    envelope = scene.sign(life_s=3600).envelope
    if holds:
        scene.verify(envelope, now=NOW + 3600 + late_s)
        return
    with pytest.raises(Untrusted, match="the script expired"):
        scene.verify(envelope, now=NOW + 3600 + late_s)


@pytest.mark.parametrize(("early_s", "holds"), [(59, True), (61, False), (1e9, False)])
def test_a_script_from_the_future_is_refused(scene: Scene, early_s: float, holds: bool) -> None:
    envelope = scene.sign().envelope
    if holds:
        scene.verify(envelope, now=NOW - early_s)
        return
    with pytest.raises(Untrusted, match="from the future"):
        scene.verify(envelope, now=NOW - early_s)


def test_a_signature_that_would_hold_for_years_is_refused_on_both_sides(scene: Scene) -> None:
    with pytest.raises(InvalidInput, match="30 days"):
        scene.sign(life_s=MAX_LIFE_S + 1)
    with pytest.raises(Untrusted, match="for too long"):
        scene.verify(changed(scene, expires_at=NOW + MAX_LIFE_S + 1))


def test_a_script_that_was_meant_for_another_node_is_refused(scene: Scene) -> None:
    with pytest.raises(Untrusted, match="signed for another node"):
        scene.verify(scene.sign().envelope, node_key=Identity(b"x" * 32).node.key)


def test_a_script_cannot_be_sent_on_to_another_context(scene: Scene) -> None:
    envelope = scene.sign().envelope
    payload = payload_of(envelope).replace(b'"context":"peer"', b'"context":"home"')
    forged = outer(envelope) | {"payload": base64.b64encode(payload).decode()}

    with pytest.raises(Untrusted, match="signature does not hold"):
        scene.verify(msgspec.json.encode(forged))


def test_another_script_under_the_same_envelope_is_refused(scene: Scene) -> None:
    with pytest.raises(Untrusted, match="not the one that was signed"):
        scene.verify(scene.sign().envelope, SOURCE + " ")


def test_parameters_that_do_not_fit_their_digest_are_refused(scene: Scene) -> None:
    with pytest.raises(Untrusted, match="parameters"):
        scene.verify(scene.sign().envelope, params=b"[1]")


def test_two_signatures_of_one_key_do_not_count_as_two(scene: Scene) -> None:
    envelope = outer(scene.sign().envelope)
    envelope["signatures"] *= 2

    with pytest.raises(Untrusted, match="2 signatures, not one"):
        scene.verify(msgspec.json.encode(envelope))


def test_an_envelope_without_its_signature_is_refused(scene: Scene) -> None:
    envelope = outer(scene.sign().envelope)

    for signatures in ([], [{"keyid": envelope["signatures"][0]["keyid"], "sig": ""}]):
        with pytest.raises(Untrusted, match=r"not signed|signature does not hold"):
            scene.verify(msgspec.json.encode(envelope | {"signatures": signatures}))


def test_a_key_that_nobody_knows_is_refused(scene: Scene) -> None:
    stranger = Identity(b"s" * 32)
    envelope = scene.sign(signer=stranger.context("gil"), caller=caller_on(stranger)).envelope

    with pytest.raises(Untrusted, match="a node that we do not know"):
        scene.verify(envelope)


@pytest.mark.parametrize("keyid", ["", "SHA256:abc", "rsa:" + "A" * 43, "ed25519:" + "A" * 42])
def test_only_ed25519_keys_are_taken(scene: Scene, keyid: str) -> None:
    envelope = outer(scene.sign().envelope)
    envelope["signatures"][0]["keyid"] = keyid

    with pytest.raises(Untrusted, match="not an ed25519 key"):
        scene.verify(msgspec.json.encode(envelope))


def test_a_small_order_key_under_which_anything_verifies_is_refused(scene: Scene) -> None:
    envelope = outer(scene.sign().envelope)
    weak = "ed25519:" + base64.urlsafe_b64encode(b"\x01" + bytes(31)).rstrip(b"=").decode()
    forged = base64.b64encode(b"\x01" + bytes(63)).decode()

    with pytest.raises(Untrusted):
        scene.verify(
            msgspec.json.encode(envelope | {"signatures": [{"keyid": weak, "sig": forged}]})
        )


def test_a_stranger_cannot_speak_in_the_name_of_a_context_it_only_knows_of(scene: Scene) -> None:
    thief = Identity(b"t" * 32)

    with pytest.raises(Untrusted, match="another key than its caller's"):
        scene.verify(scene.sign(signer=thief.context("gil")).envelope)
    stolen = caller_on(scene.laptop, context_key=key_text(thief.context("gil").key))
    with pytest.raises(Untrusted, match="certificate is about another context"):
        scene.verify(scene.sign(signer=thief.context("gil"), caller=stolen).envelope)


def test_a_context_cannot_take_another_ones_name(scene: Scene) -> None:
    lying = caller_on(scene.laptop, "gil")
    lying = msgspec.structs.replace(lying, context="admin")

    with pytest.raises(Untrusted, match="certificate is about another context"):
        scene.verify(scene.sign(caller=lying).envelope)


def test_a_certificate_that_its_node_did_not_sign_is_refused(scene: Scene) -> None:
    thief = Identity(b"t" * 32)
    key = scene.laptop.context("gil").key
    for certificate in (certify(thief.node, "context", "gil", key, NOW), b"", b"x" * 100):
        with pytest.raises(Untrusted):
            scene.verify(
                scene.sign(caller=caller_on(scene.laptop, certificate=certificate)).envelope
            )


def test_a_node_cannot_hand_in_the_script_of_another_one_when_only_its_own_may_come(
    scene: Scene,
) -> None:
    envelope = scene.sign().envelope

    assert scene.verify(envelope, sender=scene.laptop.node.key)
    with pytest.raises(Untrusted, match="sent it"):
        scene.verify(envelope, sender=scene.phone.node.key)


def test_a_statement_of_another_type_is_no_script(scene: Scene) -> None:
    payload = payload_of(scene.sign().envelope)
    receipt = seal(scene.laptop.context("gil"), RECEIPT_TYPE, payload)

    with pytest.raises(Untrusted, match="this envelope holds"):
        scene.verify(receipt)
    relabelled = outer(receipt) | {"payloadType": PAYLOAD_TYPE}
    with pytest.raises(Untrusted, match="signature does not hold"):
        scene.verify(msgspec.json.encode(relabelled))


def test_an_oversized_envelope_is_refused_unread(scene: Scene) -> None:
    with pytest.raises(Untrusted, match="more than"):
        scene.verify(b"[" * (MAX_ENVELOPE_BYTES + 1))


def test_names_that_stand_twice_are_refused(scene: Scene) -> None:
    envelope = scene.sign().envelope
    payload = payload_of(envelope)
    twice = payload.replace(b'"filename"', b'"filename":"x.js","filename"', 1)
    within = payload.replace(b'"context":"peer"', b'"context":"home","context":"peer"', 1)
    unknown = payload.replace(b"{", b'{"new":1,"new":2,', 1)

    for forged in (twice, within, unknown):
        assert forged != payload
        with pytest.raises(Untrusted, match="a name twice"):
            scene.verify(resealed(scene, forged))
    for name in (b'{"payload":"",', b'{"signatures":[],'):
        with pytest.raises(Untrusted, match="a name twice"):
            scene.verify(envelope.replace(b"{", name, 1))
    keyid = b'{"keyid":"ed25519:x","keyid"'
    with pytest.raises(Untrusted, match="a name twice"):
        scene.verify(envelope.replace(b'{"keyid"', keyid, 1))


def test_blanks_between_words_are_refused_since_one_statement_has_one_spelling(
    scene: Scene,
) -> None:
    envelope = scene.sign().envelope

    for spelled in (b" " + envelope, envelope + b"\n", envelope.replace(b'":"', b'": "', 1)):
        with pytest.raises(Untrusted, match="blanks"):
            scene.verify(spelled)


def test_fields_of_a_newer_version_are_ignored_but_signed(scene: Scene) -> None:
    payload = payload_of(scene.sign().envelope).replace(b"{", b'{"newer":{"a":[1,{}]},', 1)

    assert scene.verify(resealed(scene, payload)).call.filename == "count.js"


def test_base64_has_one_spelling(scene: Scene) -> None:
    envelope = scene.sign(params=b"12").envelope
    text = outer(envelope)["signatures"][0]["sig"]
    assert text.endswith("==")
    spare = text[:-3] + chr(ord(text[-3]) + 1) + "=="
    assert base64.b64decode(spare) == base64.b64decode(text), "the spare bits differ, no more"

    for sig in (spare, text[:8] + "\\n" + text[8:], text.rstrip("="), text + "=", text + " "):
        with pytest.raises(Untrusted, match="base64"):
            scene.verify(envelope.replace(text.encode(), sig.encode()))


def test_a_replay_under_another_spelling_of_the_run_id_is_refused(scene: Scene) -> None:
    run = scene.sign().call.run

    for other in (run.lower(), run[:-1], "x", ""):
        with pytest.raises(Untrusted, match="malformed"):
            scene.verify(changed(scene, run=other))


@pytest.mark.parametrize(
    "fields",
    [
        {"needs": ("target.fs.read:/../x",)},
        {"needs": ("target.kv.read:*",) * 65},
        {"wants": ("nonsense",)},
        {"filename": "x\x1b.js"},
        {"filename": "x.exe"},
        {"limits": {"wall_s": "long"}},
        {"denies": ("nonsense",)},
        {"denies": ("target.fs.read:/x",) * 65},
        {"denies": "target.fs.read:/x"},
    ],
)
def test_a_signed_call_that_asks_for_nonsense_is_refused(scene: Scene, fields: dict) -> None:
    with pytest.raises(Untrusted):
        scene.verify(changed(scene, **fields))


@pytest.mark.parametrize(
    "params",
    [b"", b"{", b"nope", b"1 2", b'"\xff"', b"[" * 100_000, b" " * (MAX_PARAMS_BYTES + 1)],
    ids=lambda params: ascii(params[:8]),
)
def test_parameters_that_are_no_json_are_not_signed(scene: Scene, params: bytes) -> None:
    with pytest.raises(InvalidInput, match="params"):
        scene.sign(params=params)


@pytest.mark.parametrize(
    "params", [b"null", b' {"a": [1, 2],\n "a": "\xc3\xa9"} ', b"[]", b"{}", b'"x"', b"1e400"]
)
def test_parameters_arrive_as_they_were_written(scene: Scene, params: bytes) -> None:
    signed = scene.sign(params=params)

    assert signed.params == params.strip()
    assert scene.verify(signed.envelope, params=signed.params).params == signed.params


def test_signing_and_verifying_take_a_fraction_of_a_millisecond(scene: Scene) -> None:
    def once() -> float:
        started = time.perf_counter()
        scene.verify(scene.sign().envelope)
        return time.perf_counter() - started

    assert min(once() for _ in range(100)) < 0.05


def test_an_envelope_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(Untrusted, match="malformed"):
        open_sealed(b'{"payloadType":"\xff"}', "any", max_bytes=100)


@pytest.mark.parametrize(
    ("filename", "source"),
    [("job.wasm", b"\0asm\x01\0\0\0"), ("words.lib", "{}")],
)
@pytest.mark.parametrize(
    "parts", [Parts(modules={"a.js": "1"}), Parts(libraries=("lib:a",))], ids=["modules", "lib"]
)
def test_only_scripts_of_text_have_modules(
    scene: Scene, filename: str, source: str | bytes, parts: Parts
) -> None:
    envelope = seal_with(replace(scene, script=make_script(filename, source)), parts)
    with pytest.raises(Untrusted, match="only JavaScript, TypeScript and Starlark"):
        scene.verify(envelope, source, modules=parts.modules)


def seal_with(scene: Scene, parts: Parts) -> bytes:
    signed = make_scene().sign().envelope
    call = msgspec.json.decode(payload_of(signed), type=Call)
    modules = {path: digest_of(text) for path, text in parts.modules.items()}
    forged = msgspec.structs.replace(
        call,
        filename=scene.script.filename,
        script_sha256=scene.script.digest,
        modules=modules,
        libraries=parts.libraries,
    )
    return resealed(scene, msgspec.json.encode(forged))


def test_what_the_sender_denies_is_signed_and_a_call_without_it_is_understood(
    scene: Scene,
) -> None:
    signed = scene.sign(parts=Parts(denies=("target.fs.read:/secret/**",)))
    assert scene.verify(signed.envelope).call.denies == ("target.fs.read:/secret/**",)
    assert list(map(str, denies_of(signed.envelope))) == ["target.fs.read:/secret/**"]
    assert scene.verify(scene.sign().envelope).call.denies == ()
    with pytest.raises(InvalidInput):
        scene.sign(parts=Parts(denies=("secret",)))
