"""Numbers by which talk is heard and answered once, whatever the links do."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from orvalho.peers.frames import Reply, Tell
from orvalho.peers.once import WINDOW_BYTES, WINDOW_COUNT, Answers, InOrder, Untold

MOVES = st.lists(
    st.tuples(st.sampled_from(["tell", "a", "b", "lose a", "lose b", "confirm"])), max_size=200
)


@given(MOVES)
def test_tells_are_heard_once_and_in_order_over_two_links_that_come_and_go(
    moves: list[tuple[str]],
) -> None:
    """Each link carries in order; one that is lost takes what is on it along."""
    untold: Untold[str] = Untold()
    in_order = InOrder()
    links: dict[str, deque[Tell]] = {"a": deque(), "b": deque()}
    heard: list[bytes] = []
    turn = 0

    def arrive(name: str) -> None:
        if links[name]:
            heard.extend(tell.body for tell in in_order.take(links[name].popleft()))

    for (move,) in moves:
        if move == "tell":
            name = "ab"[turn % 2]
            turn += 1
            tell = untold.number("k", b"%d" % turn)
            links[name].append(tell)
            untold.sent(tell, name)
        elif move in links:
            arrive(move)
        elif move == "confirm":
            untold.confirmed(in_order.next_seq - 1)
        else:
            lost, other = (move[-1], "b") if move[-1] == "a" else (move[-1], "a")
            links[lost].clear()
            links[other].extend(untold.moved(other, lambda way, lost=lost: way == lost))
    while any(links.values()):
        arrive("a")
        arrive("b")
    assert heard == [b"%d" % (n + 1) for n in range(turn)]


def test_what_the_sender_gave_up_is_not_waited_for() -> None:
    in_order = InOrder()
    assert in_order.take(Tell(kind="k", body=b"3", seq=3, settled=1)) == []
    late = in_order.take(Tell(kind="k", body=b"5", seq=5, settled=4))
    assert [tell.body for tell in late] == [b"3"]
    assert [tell.body for tell in in_order.take(Tell(kind="k", body=b"4", seq=4, settled=4))] == [
        b"4",
        b"5",
    ]


def test_a_peer_that_numbers_wildly_fills_no_memory() -> None:
    in_order = InOrder()
    for seq in range(2, 3 * WINDOW_COUNT):
        in_order.take(Tell(kind="k", body=b"", seq=seq, settled=1))
    assert len(in_order._early) == WINDOW_COUNT
    greedy = InOrder()
    for seq in range(2, 100):
        greedy.take(Tell(kind="k", body=bytes(WINDOW_BYTES // 10), seq=seq * 10**15, settled=1))
    assert greedy._early_bytes <= 1.1 * WINDOW_BYTES
    assert greedy.take(Tell(kind="k", body=b"", seq=2**63, settled=2**62))
    assert greedy._early_bytes == 0


def test_a_sender_knows_when_it_owes_too_much() -> None:
    untold: Untold[str] = Untold()
    while not untold.is_full:
        untold.sent(untold.number("k", bytes(100_000)), "a")
    assert untold.size_bytes < WINDOW_BYTES + 100_001
    untold.confirmed(untold.last)
    assert (untold.is_full, untold.size_bytes) == (False, 0)
    assert untold.number("k", b"").settled == untold.last + 1


def test_an_answer_is_given_again_until_it_is_settled_and_never_forgotten_before() -> None:
    answers = Answers()
    answers.keep(1, Reply(call=1, body=b"one"))
    assert answers.again(1) == Reply(call=1, body=b"one")
    assert not answers.was_given(2)
    answers.settle(2)
    assert answers.was_given(1)
    assert answers.again(1) is None


def test_answers_that_are_too_much_to_keep_are_still_known_as_given() -> None:
    answers = Answers()
    for call in range(1, 40_000):
        answers.keep(call, Reply(call=call, body=bytes(1000)))
    assert answers.again(39_999) is not None
    assert answers.again(30_000) is None
    assert all(answers.was_given(call) for call in range(1, 40_000))
    assert not answers.was_given(40_000)
    assert len(answers._given) <= 16_384
    assert answers._kept_bytes <= 4 << 20
