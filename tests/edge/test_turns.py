"""Answers and reports wait while orders leave, and then take turns; nobody is forgotten."""

import asyncio
import itertools

from daemon.edge import turns
from daemon.edge.turns import PER_TURN, Turns


async def test_turns_are_given_in_order_a_few_per_turn_of_the_loop() -> None:
    """A trade that arrives among a hundred answers is heard after a few of them."""
    one = Turns()
    log: list[int] = []

    async def ask(number: int) -> None:
        await one.turn()
        log.append(number)

    asking = [asyncio.create_task(ask(number)) for number in range(20)]
    steps: list[int] = []
    while len(log) < 20:
        steps.append(len(log))
        await asyncio.sleep(0)
    await asyncio.gather(*asking)

    assert log == list(range(20))
    assert max(after - before for before, after in itertools.pairwise(steps)) <= PER_TURN


async def test_nobody_has_a_turn_while_orders_leave() -> None:
    """What came back waits until the last order has left, however the sends are nested."""
    one = Turns()
    one.hold()
    one.hold()
    asking = asyncio.create_task(one.turn())
    for _ in range(10):
        await asyncio.sleep(0)
    one.release()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asking.done()

    one.release()
    await asyncio.wait_for(asking, 5)


async def test_news_waits_a_bounded_time() -> None:
    """Orders that leave for long do not keep the news from the engine: after a while both take turns."""
    one = Turns()
    one.hold()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.wait_for(asyncio.gather(*(one.turn() for _ in range(10))), 5)

    assert loop.time() - begun >= turns.HOLD_S_MAX
    await asyncio.wait_for(one.turn(), 5)  # also one that asks after that
    one.release()


async def test_whoever_is_cancelled_holds_nobody_up() -> None:
    """A request that timed out while it waited is passed over."""
    one = Turns()
    one.hold()
    asking = [asyncio.create_task(one.turn()) for _ in range(8)]
    await asyncio.sleep(0)
    for task in asking[:7]:
        task.cancel()
    one.release()

    await asyncio.wait_for(asking[7], 5)
    await asyncio.wait_for(one.turn(), 5)
