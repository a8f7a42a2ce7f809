"""Tokens whose makers lie: nothing but our own form is read, and no Datalog is ever run."""

from __future__ import annotations

import random
from typing import Any

import biscuit_auth
import pytest
from biscuit_auth import BiscuitBuilder, BlockBuilder

from orvalho.contexts.identity import Key, Signer
from orvalho.errors import InvalidInput, LimitExceeded, Untrusted
from orvalho.policies import token
from orvalho.policies.token import MAX_BYTES, MAX_LINKS, extend, issue, open_token

LIBRARY: Any = biscuit_auth
ROOT, BOB, EVE = (Signer(bytes([each]) * 32) for each in (1, 2, 3))
# The order of Ed25519's group (RFC 8032): a signature plus this would hold for a lax verifier.
ORDER = 2**252 + 27742317777372353535851937790883648493


def private(signer: Signer) -> Any:
    return signer.lend(lambda seed: LIBRARY.PrivateKey.from_bytes(seed, LIBRARY.Algorithm.Ed25519))


def built(code: str) -> bytes:
    """A token of our root with any Datalog in it."""
    return bytes(BiscuitBuilder(code).build(private(ROOT)).to_bytes())


def appended(code: str) -> bytes:
    """A good token with a block of anything behind it, as whoever has it can make."""
    public = LIBRARY.PublicKey.from_bytes(ROOT.key, LIBRARY.Algorithm.Ed25519)
    opened = LIBRARY.Biscuit.from_bytes(issue(ROOT, b"first"), public)
    return bytes(opened.append(BlockBuilder(code)).to_bytes())


def test_what_is_issued_and_extended_is_read_with_who_signed_it() -> None:
    made = extend(issue(ROOT, b"first"), ROOT.key, b"second", BOB)
    made = extend(made, ROOT.key, b"third", None)
    first, second, third = open_token(made, ROOT.key)
    assert (first.statement, second.statement, third.statement) == (b"first", b"second", b"third")
    assert (first.signed_by, second.signed_by, third.signed_by) == (None, BOB.key, None)
    assert len({each.revocation_id for each in (first, second, third)}) == 3


def test_ids_stay_when_a_link_is_added() -> None:
    made = issue(ROOT, b"first")
    longer = extend(made, ROOT.key, b"second", BOB)
    assert open_token(longer, ROOT.key)[0] == open_token(made, ROOT.key)[0]


def test_another_root_does_not_open_it() -> None:
    with pytest.raises(Untrusted, match="signatures do not hold"):
        open_token(issue(EVE, b"first"), ROOT.key)


def test_ten_thousand_damaged_tokens_open_as_nothing_else() -> None:
    made = extend(issue(ROOT, b"first"), ROOT.key, b"second", BOB)
    good, chance = open_token(made, ROOT.key), random.Random(7)
    refused = 0
    for _ in range(10_000):
        raw = bytearray(made)
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        if chance.random() < 0.2:
            del raw[chance.randrange(len(raw)) :]
        try:
            assert open_token(bytes(raw), ROOT.key) == good
        except Untrusted:
            refused += 1
    assert refused > 9_000


def test_every_cut_is_refused() -> None:
    made = extend(issue(ROOT, b"first"), ROOT.key, b"second", BOB)
    for end in range(len(made)):
        with pytest.raises(Untrusted):
            open_token(made[:end], ROOT.key)


def fields(raw: bytes) -> dict[int, list[bytes]]:
    """The top of a protobuf message: number -> each field as it stands there."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(raw):
        start, size, shift = at, 0, 0
        at += 1
        while True:
            size |= (raw[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if raw[at - 1] < 0x80:
                break
        at += size
        found.setdefault(raw[start] >> 3, []).append(raw[start:at])
    return found


def test_a_link_is_not_taken_off_or_moved() -> None:
    """A token ends with the secret of its last block: a shorter one cannot be closed again."""
    parts = fields(extend(extend(issue(ROOT, b"1"), ROOT.key, b"2", BOB), ROOT.key, b"3", BOB))
    (first,), (second, third), (proof,) = parts[2], parts[3], parts[4]
    assert len(open_token(first + second + third + proof, ROOT.key)) == 3
    for changed in (
        first + second + proof,
        first + third + proof,
        first + proof,
        first + third + second + proof,
        first + second + second + third + proof,
        first + second + third,
    ):
        with pytest.raises(Untrusted):
            open_token(changed, ROOT.key)


def test_a_link_does_not_fit_behind_another_grant() -> None:
    one = fields(extend(issue(ROOT, b"1"), ROOT.key, b"2", BOB))
    other = fields(issue(ROOT, b"everything"))
    with pytest.raises(Untrusted):
        open_token(other[2][0] + one[3][0] + one[4][0], ROOT.key)


def test_a_signature_has_one_spelling() -> None:
    """Else a revoked link would come back under another id."""
    made = issue(ROOT, b"first")
    (block,) = open_token(made, ROOT.key)
    at = made.index(block.revocation_id)
    scalar = int.from_bytes(block.revocation_id[32:], "little") + ORDER
    other = block.revocation_id[:32] + scalar.to_bytes(32, "little")
    with pytest.raises(Untrusted):
        open_token(made[:at] + other + made[at + 64 :], ROOT.key)


@pytest.mark.parametrize(
    "code",
    [
        "link(hex:00); more($x) <- link($x);",
        "link(hex:00); check if true;",
        "check all true;",
        "link(hex:00); link(hex:01);",
        'link("00");',
        'link(hex:00); text(");\\nlink(hex:00");',
        "link(hex:00, 1);",
        "other(hex:00);",
        # A bomb: each of these would be evaluated by whoever runs the token's program.
        "n(0); m($x) <- n($x); n($x) <- m($x);",
        "".join(f"a({n});" for n in range(150)) + "b($x,$y,$z) <- a($x),a($y),a($z);",
        "check if " + "(" * 300 + "true" + ")" * 300 + ";",
        "check if " + "!" * 300 + "true;",
        'check if "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!".matches("(a|a)*$");',
    ],
)
def test_a_program_in_a_token_is_refused_and_not_run(code: str) -> None:
    for made in (built(code), appended(code)):
        with pytest.raises(Untrusted, match="something else than one statement"):
            open_token(made, ROOT.key)


def test_a_long_string_many_times_over_is_bounded() -> None:
    """Strings stand once in a token and are printed at each use: 4 KiB may become 400."""
    text = "x" * 1500
    code = "".join(f'a({n}, "{text}");' for n in range(140))
    made = appended(code)
    assert len(made) <= MAX_BYTES
    with pytest.raises(Untrusted, match="something else"):
        open_token(made, ROOT.key)


def test_a_token_in_a_token_is_a_statement_of_bytes() -> None:
    inner = issue(EVE, b"inner")
    (block,) = open_token(issue(ROOT, inner), ROOT.key)
    assert block.statement == inner


def test_a_key_of_another_kind_signs_nothing() -> None:
    public = LIBRARY.PublicKey.from_bytes(ROOT.key, LIBRARY.Algorithm.Ed25519)
    opened = LIBRARY.Biscuit.from_bytes(issue(ROOT, b"first"), public)
    seed = bytes([9]) * 32
    other = LIBRARY.PrivateKey.from_bytes(seed, LIBRARY.Algorithm.Secp256r1)
    block = opened.third_party_request().create_block(other, BlockBuilder("link(hex:00)"))
    key = LIBRARY.KeyPair.from_private_key(other).public_key
    made = bytes(opened.append_third_party(key, block).to_bytes())
    with pytest.raises(Untrusted, match="not Ed25519"):
        open_token(made, ROOT.key)


def test_too_long_and_too_large_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    made = issue(ROOT, b"0")
    for number in range(1, MAX_LINKS):
        made = extend(made, ROOT.key, b"%d" % number, None)
    with pytest.raises(LimitExceeded, match="handed on at most"):
        extend(made, ROOT.key, b"one more", None)
    with pytest.raises(LimitExceeded, match="bytes"):
        issue(ROOT, bytes(MAX_BYTES))
    with pytest.raises(Untrusted, match="more than"):
        open_token(bytes(MAX_BYTES + 1), ROOT.key)
    monkeypatch.setattr(token, "MAX_LINKS", 3)
    with pytest.raises(Untrusted, match="8 links"):
        open_token(made, ROOT.key)


def test_a_root_that_is_no_key_is_a_matter_of_input() -> None:
    with pytest.raises((InvalidInput, Untrusted)):
        open_token(issue(ROOT, b"first"), Key(b"short"))
