"""Names: what can be one, and that what is printed is read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.contexts.names import (
    NODE_LABEL,
    Address,
    Several,
    check_label,
    near_miss,
    new_run_id,
    new_ulid,
    parse_address,
    parse_run_id,
    parse_target,
)
from orvalho.errors import InvalidInput

labels = st.from_regex(r"[a-z0-9](-?[a-z0-9]){0,20}", fullmatch=True).filter(
    lambda label: label not in {"all", "any", "here", "local", "none", "owner", "self", "this"}
)
moments = st.floats(0, 2**37, allow_nan=False)


@given(st.none() | labels, labels)
def test_an_address_reads_back_as_it_was_printed(context, node):
    address = Address(context, node)

    assert parse_address(str(address)) == address


@given(st.text(max_size=80))
def test_any_text_is_an_address_that_prints_the_same_or_is_refused(text):
    try:
        address = parse_address(text)
    except InvalidInput as error:
        assert error.where.isprintable()
    else:
        assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "a@", "@b", "a@b@c", "A", "a b", "-a", "a-", "a--b", "a_b", "é", "a\n", "a.b"),
        *("all", "any", "owner", "self", "local", "gil@all", "owner@phone", "a" * 64),
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_address(text)


def test_a_label_with_capitals_gets_a_suggestion():
    with pytest.raises(InvalidInput) as refusal:
        check_label("My Phone")

    assert refusal.value.hint == "did you mean my-phone?"


def test_a_typo_finds_the_near_name_and_nonsense_finds_none():
    assert near_miss("phnoe2", ["laptop", "phone2"]) == "phone2"
    assert near_miss("zzzz", ["laptop", "phone2"]) is None


@given(moments, moments, st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_run_ids_sort_by_their_millisecond(first_at, later_at, some, other):
    first, later = new_run_id(first_at, some), new_run_id(later_at, other)

    if int(first_at * 1000) < int(later_at * 1000):
        assert first < later
    assert parse_run_id(first) == first
    assert parse_run_id(first.lower()) == first


def test_a_ulid_agrees_with_the_specification():
    # The example of the ULID specification: time 01ARZ3NDEK is 1469922850259 ms.
    assert new_ulid(1469922850.259, bytes(10)) == "01ARZ3NDEK" + "0" * 16
    assert new_ulid(0.0, b"\xff" * 10) == "0" * 10 + "Z" * 16


@pytest.mark.parametrize(
    "text", ["", "r_", "r_123", "x_" + "0" * 26, "r_" + "8" * 26, "r_" + "U" * 26]
)
def test_what_is_no_run_id_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_run_id(text)


def test_a_ulid_takes_ten_random_bytes():
    with pytest.raises(ValueError, match="10 random bytes"):
        new_ulid(0.0, bytes(9))


pairs = st.lists(st.from_regex(NODE_LABEL, fullmatch=True), max_size=4, unique=True).map(tuple)


@given(st.none() | labels, pairs)
def test_any_reads_back_as_it_was_printed(context, chosen):
    for is_any in (True, False):
        name = Several(context, labels=chosen, is_any=is_any)
        assert parse_target(str(name)) == name


@given(st.none() | labels, labels)
def test_groups_and_all_read_back_as_they_were_printed(context, group):
    for name in (Several(context, group=group), Several(context)):
        assert parse_target(str(name)) == name


@given(st.text(st.sampled_from("any@,=l1-A. \n"), max_size=20))
def test_any_text_is_a_target_that_means_the_same_when_printed_or_is_refused(text):
    try:
        target = parse_target(text)
    except InvalidInput as error:
        assert error.where.isprintable()
    else:
        assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text",
    ["any@", "any@gpu", "any@gpu=", "any@a=b,", "@", "x@@", "@a@b", "all@all", "any@a=b\n", "all@"],
)
def test_what_is_no_name_of_several_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_target(text)
