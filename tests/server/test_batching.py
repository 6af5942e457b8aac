"""Queries that arrive together are answered together, each with its own result."""

import asyncio

import pytest

from twotower.server.batching import MOST, Batcher


def test_one_call_answers_all_that_wait() -> None:
    calls: list[int] = []

    def answer(queries: list[int]) -> list[int | Exception]:
        calls.append(len(queries))
        return [ValueError(str(query)) if query % 7 == 0 else 2 * query for query in queries]

    async def ask() -> list[int | BaseException]:
        batcher: Batcher[int, int] = Batcher(answer)
        return await asyncio.gather(*(batcher.ask(number) for number in range(100)), return_exceptions=True)

    results = asyncio.run(ask())
    assert calls == [MOST, MOST, MOST, 100 - 3 * MOST]
    for number, result in enumerate(results):
        assert (str(result) if number % 7 == 0 else result) == (str(number) if number % 7 == 0 else 2 * number)


def test_a_query_alone_does_not_wait_for_others() -> None:
    async def ask() -> list[int]:
        batcher: Batcher[int, int] = Batcher(lambda queries: [query + 1 for query in queries])
        return [await batcher.ask(1), await batcher.ask(5)]

    assert asyncio.run(ask()) == [2, 6]


def test_a_failure_reaches_all_of_its_batch_and_the_next_goes_on() -> None:
    async def ask() -> int:
        failing = [True]

        def answer(queries: list[int]) -> list[int]:
            if failing.pop() if failing else False:
                raise RuntimeError("broken")
            return queries

        batcher: Batcher[int, int] = Batcher(answer)
        for found in await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True):
            assert isinstance(found, RuntimeError)
        return await batcher.ask(3)

    assert asyncio.run(ask()) == 3


def test_who_has_gone_is_left_out() -> None:
    async def ask() -> int:
        batcher: Batcher[int, int] = Batcher(lambda queries: queries)
        gone = asyncio.create_task(batcher.ask(1))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await batcher.ask(2)

    assert asyncio.run(ask()) == 2
