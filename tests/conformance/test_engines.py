"""The engine suite, on each engine there is."""

from __future__ import annotations

import pytest

from orvalho.errors import NotFound
from orvalho.runtime.engine import Engine
from orvalho.runtime.engines.catalog import make_engine
from tests.conformance.engine import EngineSuite, Programs

JAVASCRIPT = Programs(
    filename="job.js",
    adds_one_to_n="export default ({ params }) => params.n + 1",
    leaves_a_trace_and_answers_whether_there_was_one=(
        "const was = 'trace' in globalThis || 'trace' in Array.prototype;"
        "globalThis.trace = Array.prototype.trace = 1; was"
    ),
    calls_target_kv_get_and_answers_that="await target.kv.get('key')",
    calls_it_and_answers_the_name_of_the_error=(
        "let name; try { await target.kv.get('key') } catch (e) { name = e.name } name"
    ),
    logs_hello="log('hello'); undefined",
    sleeps_5_ms_and_answers_7="await new Promise((r) => setTimeout(r, 5)); 7",
    throws_wrong_on_line_2="// a comment\nthrow new Error('wrong')",
    is_not_syntax_on_line_2="// a comment\nlet 1a = 2",
    loops="for (;;) {}",
    loops_after_its_first_turn="await 0; for (;;) {}",
    eats_memory="const a = []; for (;;) a.push(new Array(1000).fill(1.5))",
    answers_three_bytes="new Uint8Array([1, 2, 3])",
)


@pytest.fixture(scope="module")
def v8() -> Engine:
    return make_engine("javascript")


class TestV8(EngineSuite):
    @pytest.fixture
    def engine(self, v8: Engine) -> Engine:
        return v8

    @pytest.fixture
    def programs(self) -> Programs:
        return JAVASCRIPT


def test_a_language_that_nothing_runs_is_not_found() -> None:
    with pytest.raises(NotFound):
        make_engine("cobol")
