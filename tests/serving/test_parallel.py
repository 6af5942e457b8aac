"""Parts that several threads compute, and processes that fork after them."""

import os
import subprocess
import sys
from threading import get_ident
from typing import Any

import numpy as np
import pytest
from naive_shop import COLUMNS, COUNTS, IDS

from twotower.serving.index import ItemIndex, build_index
from twotower.serving.parallel import in_parts
from twotower.serving.retriever import Retriever


@pytest.mark.parametrize(("size", "step", "threads"), [(0, 4, 2), (1, 9, 3), (7, 3, 1), (7, 100, 2), (100, 7, 3)])
def test_the_parts_are_the_whole_in_order(size: int, step: int, threads: int) -> None:
    computed = in_parts(lambda part: [*range(size)[part]], size, step, threads)
    assert [place for part in computed for place in part] == [*range(size)]
    assert all(0 < len(part) <= step for part in computed) and len(computed) >= min(threads, size)


def test_one_thread_is_the_callers() -> None:
    assert set(in_parts(lambda _: get_ident(), 9, 2, 1)) == {get_ident()}
    assert get_ident() not in in_parts(lambda _: get_ident(), 9, 9, 2)


def test_an_error_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        in_parts(lambda part: 1 // part.start, 9, 3, 2)


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_threads_change_no_result(make_bundle: Any, threads: int) -> None:
    path = make_bundle(IDS, COUNTS, columns=COLUMNS)
    one, more = Retriever.load(path), Retriever.load(path, threads=threads)
    histories = [IDS[i : i + i % 5] for i in range(47)]
    for asked in ({}, {"exclude_seen": True}, {"filters": {"brand": "a"}}):
        expected, results = (retriever.recommend(histories, 7, **asked) for retriever in (one, more))
        assert results.ids == expected.ids
        np.testing.assert_allclose(results.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize("factory", ["Flat", "IVF16,SQ8"])
def test_threads_change_no_search(factory: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    index = ItemIndex(build_index(vectors, factory), vectors, {"nprobe": 4} if "IVF" in factory else {}, 2)
    for allowed in (None, np.arange(500) % 3 == 0, np.arange(500) < 9):
        one, more = (index.search(vectors[:91], 9, allowed, threads) for threads in (1, 4))
        np.testing.assert_array_equal(one[1], more[1])
        np.testing.assert_allclose(one[0], more[0], rtol=1e-5)


FORK = """
import os, signal, sys
from twotower.serving.retriever import Retriever
def ask(retriever):
    return retriever.recommend([[100, 107]] * 60 + [[107]], 5, filters={"brand": ["a", "b"]}).ids
for threads in 1, 2, 3:
    retriever = Retriever.load(sys.argv[1], threads=threads)
    before = ask(retriever)
    for anew in False, True:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            same = ask(Retriever.load(sys.argv[1], threads=threads) if anew else retriever) == before
            os._exit(0 if same else 3)
        print(os.waitpid(child, 0)[1], ask(retriever) == before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("pool", ["1", "2"])
def test_a_process_that_forks_after_an_answer_still_answers(make_bundle: Any, pool: str) -> None:
    path = make_bundle(IDS, COUNTS, columns=COLUMNS)
    env = {**os.environ, "OMP_NUM_THREADS": pool}
    done = subprocess.run([sys.executable, "-c", FORK, str(path)], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["0 True"] * 6, done.stderr
