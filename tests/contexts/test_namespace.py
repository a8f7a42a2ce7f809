"""The mount table: the longest place wins, and the way to a mount can be listed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.namespace import Namespace

paths = st.lists(st.sampled_from("abc"), max_size=4).map(lambda names: "/" + "/".join(names))


def test_the_longest_place_that_holds_a_path_wins():
    table = Namespace({"/": "root", "/a": "outer", "/a/b": "inner"})

    assert table.resolve("/a/b/c") == ("inner", "/c")
    assert table.resolve("/a/b") == ("inner", "/")
    assert table.resolve("/a/bc") == ("outer", "/bc")
    assert table.resolve("/ab") == ("root", "/ab")


def test_nothing_is_where_nothing_is_mounted_but_the_way_there_is_listed():
    table = Namespace({"/homes/gil": "gil", "/homes/peer": "peer"})

    assert table.resolve("/homes") is None
    assert table.children("/") == {"homes"}
    assert table.children("/homes") == {"gil", "peer"}
    assert table.children("/homes/gil") == frozenset()
    assert table.is_place("/homes")
    assert table.is_place("/homes/gil")
    assert not table.is_place("/homes/gil/a")


@given(st.sets(paths, max_size=4), paths)
def test_a_place_and_the_rest_make_the_path_again(places, path):
    table = Namespace({VirtualPath(place): place for place in places})

    resolved = table.resolve(VirtualPath(path))

    holding = [p for p in places if p in ("/", path) or path.startswith(f"{p}/")]
    if resolved is None:
        assert not holding
    else:
        place, rest = resolved
        assert place == max(holding, key=len)
        assert place.rstrip("/") + rest in (path, f"{path}/")
