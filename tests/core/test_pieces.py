"""Decisions over many symbols are made in pieces: the same orders come out, and what happens in between counts."""

from collections.abc import Callable

import pytest

from daemon.core import decisions, pieces
from daemon.domain.events import Action, Command, Continue, Decide, Decided, Effect, Event, Proceed, Step, Submit
from daemon.domain.orders import Check, Side
from daemon.domain.signal import Targets
from risk.limits import Limits
from tests.core.driver import PRICES, Driver, all_of, make_config, only

COUNT = 60
UNIVERSE = tuple(f"C{number:02d}/USDT" for number in range(COUNT))
ROOM = Limits(venue_orders_per_10s=1000, max_order_notional=0.3)
EVEN = tuple(0.9 / COUNT for _ in UNIVERSE)


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every symbol a price of its own."""
    for number, symbol in enumerate(UNIVERSE):
        monkeypatch.setitem(PRICES, symbol, 10.0 + number)


def started() -> Driver:
    """Return an ACTIVE engine over sixty symbols."""
    return Driver(make_config(universe=UNIVERSE, limits=ROOM)).start()


def asked(driver: Driver) -> Decide:
    """Let a bar pass and return the question it leads to."""
    return only(driver.bar(), Decide)


def answer(driver: Driver, weights: tuple[float, ...], between: Callable[[int], Event | None]) -> list[Effect]:
    """Answer the question and go on piece by piece; ``between`` may let something happen before the n-th piece."""
    ask = asked(driver)
    effects: list[Effect] = []
    event: Event = Decided(ask.seq, Targets(UNIVERSE, weights), 1, 1, 1, driver.now_ns)
    for number in range(1000):
        out = driver.engine.process(event)
        effects += out
        if not any(isinstance(one, Continue) for one in out):
            return effects
        happened = between(number)
        if happened is not None:
            effects += driver.engine.process(happened)
        event = Proceed(driver.now_ns)
    raise AssertionError("the work never ends")


def nothing(number: int) -> None:
    """Let nothing happen."""


@pytest.mark.usefixtures("prices")
def test_the_pieces_change_nothing_in_the_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """One write with the same intents comes out, however large the pieces are."""
    made = {}
    for size in (1, 7, 25, 1000):
        monkeypatch.setattr(decisions, "PIECE", size)
        made[size] = only(answer(started(), EVEN, nothing), Submit)

    assert len(made[1000].approved) == COUNT
    assert made[1] == made[7] == made[25] == made[1000]


@pytest.mark.usefixtures("prices")
def test_few_symbols_are_one_piece() -> None:
    """Nothing is put off where nothing is gained: the answer itself leads to the orders."""
    driver = Driver(make_config(universe=UNIVERSE[: pieces.PIECE])).start()
    ask = asked(driver)
    weights = (0.02,) * pieces.PIECE
    out = driver.engine.process(Decided(ask.seq, Targets(UNIVERSE[: pieces.PIECE], weights), 1, 1, 1, driver.now_ns))

    assert only(out, Submit).approved
    assert not all_of(out, Continue)


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("when", range(8))
def test_orders_that_a_command_forbids_meanwhile_do_not_leave(when: int) -> None:
    """Between two pieces the operator says reduce-only: no buy leaves, and nothing stays reserved for one (I12)."""
    driver = started()

    def reduce(number: int) -> Event | None:
        return Command("x", Action.REDUCE_ONLY, "test", driver.now_ns) if number == when else None

    effects = answer(driver, EVEN, reduce)
    step = only(effects, Step)
    submits = all_of(effects, Submit)

    assert step.approved == 0
    assert not any(one.approved for one in submits)
    assert not driver.engine.state.blotter.live
    for submit in submits:
        assert {one.check for one in submit.refused} == {Check.STATE}


@pytest.mark.usefixtures("prices")
def test_a_symbol_that_is_stopped_out_meanwhile_is_not_bought() -> None:
    """A stop hits between two pieces: its sale leaves at once, the purchase planned before is refused."""
    driver = started()
    half = tuple(weight / 2 for weight in EVEN)
    for approved in only(driver.send(*_decided(driver, half)), Submit).approved:
        driver.fill(approved)
    hit = UNIVERSE[-1]
    sold: list[Effect] = []

    def fall(number: int) -> Event | None:
        if number == 3:
            sold.extend(driver.tick(hit, PRICES[hit] * 0.9))
            driver.books()
        return None

    effects = answer(driver, EVEN, fall)
    bought = {one.intent.symbol for one in only(effects, Submit).approved if one.intent.side is Side.BUY}

    assert {one.intent.symbol for one in only(sold, Submit).approved} == {hit}
    assert bought == set(UNIVERSE) - {hit}


@pytest.mark.usefixtures("prices")
def test_the_next_question_ends_the_work_before_it() -> None:
    """A loop so slow that a bar closes before the last decision is planned: that one's orders leave first, none is lost."""
    driver = started()
    ask = asked(driver)
    first = driver.engine.process(Decided(ask.seq, Targets(UNIVERSE, EVEN), 1, 1, 1, driver.now_ns))
    assert all_of(first, Continue)
    assert not all_of(first, Submit)
    effects = driver.bar()

    assert len(only(effects, Submit).approved) == COUNT
    assert all_of(effects, Decide)


@pytest.mark.usefixtures("prices")
def test_work_that_fails_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of one piece does not come back with every ``Proceed``; the next decision is made."""
    driver = started()
    ask = asked(driver)
    driver.engine.process(Decided(ask.seq, Targets(UNIVERSE, EVEN), 1, 1, 1, driver.now_ns))

    def broken(*_arguments: object) -> None:
        raise ArithmeticError("planted")

    with monkeypatch.context() as patch:
        patch.setattr("daemon.core.planner._Planner._wish", broken)
        with pytest.raises(ArithmeticError, match="planted"):
            driver.engine.process(Proceed(driver.now_ns))

    assert driver.engine.process(Proceed(driver.now_ns)) == ()
    assert len(only(driver.send(*_decided(driver, EVEN)), Submit).approved) == COUNT


def _decided(driver: Driver, weights: tuple[float, ...]) -> tuple[Decided]:
    return (Decided(asked(driver).seq, Targets(UNIVERSE, weights), 1, 1, 1, driver.now_ns),)
