"""A recorded run beside a backtest of it: decisions are found equal, what is not equal is found, and every gap is explained."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyarrow import parquet

from daemon.backtest.parity import ParityResult, parity
from daemon.backtest.parity_compare import DECIDED
from daemon.backtest.parity_gap import Interval, Marks, intervals_of, orders_of
from daemon.backtest.parity_read import Asked, Execution, Sent, Stretch, Watcher
from daemon.backtest.parity_run import Answers, Hiring, Plan, Shift, panel_of, run_twin
from daemon.backtest.parity_show import document, tables, write
from daemon.backtest.parity_split import PARTS
from daemon.backtest.parity_twin import Twin
from daemon.backtest.record import Worker
from daemon.backtest.replay import replay
from daemon.backtest.run import venue_config
from daemon.domain.errors import ConfigError
from daemon.domain.events import Action, Booked, Command, Flow, WorkerUp
from daemon.domain.market import NS_PER_S, Book
from daemon.domain.orders import Cause, Fill, Side
from daemon.outlets.journal import EffectsHash, Frame, Header, Journal, Lost, Opened, Piece, read_journal
from daemon.service import wiring
from tests.backtest.parity_kit import BAR_NS, CONFIG, WARM, Recorded, settings_of
from tests.core.driver import make_intent

BARS = 16


def recorded(folder: Path, **options: Any) -> Recorded:
    """A run of some bars, not closed yet."""
    return Recorded(folder, **options).start().bars(BARS)


def agree(result: ParityResult) -> None:
    """Everything is compared, and nothing differs."""
    assert result.problems == ()
    assert result.ok
    assert all(msgspec.structs.asdict(result.checks).values())
    assert [one.difference for one in result.decisions if one.difference] == []
    assert all(one.made for one in result.decisions)
    assert all(one.equal for one in result.orders)
    assert result.gap.residual == 0
    assert result.gap.total == sum((one.gap for one in result.intervals), Decimal(0))
    assert result.gap.total == result.gap.parts.total


@pytest.mark.parametrize("chance", range(4))
def test_a_backtest_of_the_recorded_period_decides_the_same(tmp_path: Path, chance: int) -> None:
    """Whatever the market did and the venue filled: same questions, forecasts, targets and orders; the gap is explained."""
    run = recorded(tmp_path, chance=chance, slow=chance == 3)
    result = parity(run.close())

    agree(result)
    assert len(result.decisions) == BARS - 1
    assert len(result.intervals) == BARS - 2
    assert [one.forecast_error for one in result.decisions] == [0.0] * len(result.decisions)
    assert [one.target_error for one in result.decisions] == [0.0] * len(result.decisions)
    assert len(result.orders) > 10
    assert result.gap.total != 0
    assert result.gap.parts.signal == 0
    assert result.gap.parts.missed != 0
    assert result.bars[0].equal == 2 * (BARS - 1)


@pytest.mark.parametrize("paused", [False, True])
def test_profit_is_what_the_engine_itself_counts(tmp_path: Path, paused: bool) -> None:
    """Reported profit is the engine's equity at the ends: at the last decision, or a bar after it when more were recorded."""
    run = recorded(tmp_path, slow=paused)
    if paused:
        run.emit(Command("hand", Action.PAUSE, "test", run.now_ns))
        run.bars(4)
    result = parity(run.close())
    watcher = Watcher()
    replay(run.folder / "journal", watch=watcher)
    stretch = watcher.best
    assert stretch is not None
    last = stretch.asked[-1]

    assert (stretch.end is not None) is paused
    assert result.end_ns == last.decide.close_ns + (BAR_NS if paused else 0)
    end = stretch.end.moment if stretch.end is not None else last.moment
    assert result.gap.reported == end.equity - stretch.asked[0].moment.equity
    assert result.gap.recorded + result.gap.valuation == result.gap.reported
    assert result.gap.backtest == result.gap.free + result.gap.carried
    agree(result)


def test_money_that_came_is_no_profit(tmp_path: Path) -> None:
    """A deposit and a coin that came are told to the backtest, and count as nobody's profit."""
    run = recorded(tmp_path)
    run.emit(Flow("USDT", Decimal(5000), ours=True, detail="deposit", ts_ns=run.now_ns))
    run.bars(3).emit(Flow("ETH", Decimal("0.5"), ours=True, detail="by hand", ts_ns=run.now_ns))
    result = parity(run.bars(4).close())

    agree(result)
    assert abs(result.gap.recorded) < 2000
    assert abs(result.gap.free) < 2000


@pytest.mark.parametrize("order", ["ioc", "limit"])
def test_held_positions_and_resting_orders_are_taken_over(tmp_path: Path, order: str) -> None:
    """A stretch that begins in the middle of a run, from a state: holdings, orders under way, memory."""
    run = Recorded(
        tmp_path, chance=7, journal={"segment_bytes": 16_384, "max_bytes": 200_000}, execution={"order": order}
    ).start()
    from daemon.service.recording import Recording

    recording = Recording(run.journal, run.runner)
    for _ in range(60):
        run.bars(1)
        run.journal.flush_now()
        recording.look()
    parts = sorted((run.close() / "journal").iterdir())
    assert len(parts) > 2
    for one in parts[:2]:
        one.unlink()
    result = parity(run.folder)

    agree(result)
    assert 5 < len(result.decisions) < 59
    assert result.bars[0].unchecked < 10


def test_a_decision_every_few_bars_makes_longer_intervals(tmp_path: Path) -> None:
    """The turns of the recorded run are the backtest's, and nothing is decided between them."""
    run = Recorded(tmp_path, chance=2, optimizer={"rebalance_every": 4}).start().bars(25)
    result = parity(run.close())

    agree(result)
    assert len(result.decisions) == 7
    assert {one.end_ns - one.begin_ns for one in result.intervals[1:-1]} == {4 * BAR_NS}


def test_daily_closes_are_those_the_run_was_told(tmp_path: Path) -> None:
    """Told at the start and anew in the middle, and never those that the recorded bars would make up."""
    run = Recorded(tmp_path, chance=6).start()
    run.days(6)
    run.bars(8).days(9)
    run.bars(8).days(4)
    result = parity(run.bars(4).close())
    stretch, twin, _ = twinned(run)

    agree(result)
    assert [len(one.moment.daily.get("BTC/USDT", b"")) / 8 for one in stretch.asked] == [6] * 7 + [9] * 8 + [4] * 4
    assert twin.state.daily == stretch.asked[-1].moment.daily


@pytest.mark.parametrize("chance", range(3))
def test_what_the_backtest_has_under_way_ends_at_the_next_ground(tmp_path: Path, chance: int) -> None:
    """Stops that fire in one of both and are not done: nothing of it is left to the next decision."""
    costs = {"participation": 5e-5, "spread_bps": 1.0, "impact_bps": 1.0}
    stops = {"stop_loss": 0.003, "trailing_stop": 0.004, "stop_cooldown": "3m"}
    run = Recorded(
        tmp_path, chance=chance, risk={**CONFIG["risk"], **stops}, backtest=costs, execution={"order": "limit"}
    )
    result = parity(run.start().bars(40).close())
    stretch, twin, _ = twinned(run)

    assert (result.problems, result.gap.residual) == ((), 0)
    assert any(one.cause not in DECIDED and one.backtest_qty for one in result.orders)
    sent = {one.intent.client_id: one.at for one in twin.told.sent}
    assert [one.at for one in twin.told.executions] == [sent[one.fill.client_id] for one in twin.told.executions]
    assert all(market.book is None for market in twin.state.markets.values())
    assert twin.session is not None
    booked = {symbol.partition("/")[0]: qty for symbol, qty in twin.state.account.positions.items()}
    venue = {asset: amount for asset, amount in twin.session.venue.balances.items() if amount}
    assert venue == {"USDT": twin.state.account.cash, **booked}
    assert len(stretch.asked) > 20


def test_a_fee_in_a_third_asset_is_told(tmp_path: Path) -> None:
    """BNB is in nobody's equity: no fee part on that side, the accounts still add up, and a note says so."""
    run = Recorded(tmp_path, chance=3)
    run.fee_asset = "BNB"
    result = parity(run.start().bars(BARS).close())

    agree(result)
    assert result.notes == ("fees taken in BNB are in nobody's equity and in no part of the gap",)
    assert result.gap.parts.fees > 0


# ---------------------------------------------------------------------------------------------- what differs


def test_another_configuration_is_found_out(tmp_path: Path) -> None:
    """A strategy told something else: the first decision that differs is named, with what it would have wanted."""
    run = recorded(tmp_path)
    folder = run.close()
    changed = settings_of(tmp_path / "other", state_dir=str(tmp_path / "var"), strategy_params={"speed": 6.0})
    same = settings_of(tmp_path / "same", state_dir=str(tmp_path / "var"))
    result = parity(folder, settings=changed)

    agree(parity(folder, settings=same))
    assert not result.ok
    assert (result.checks.decisions, result.checks.journal, result.checks.gap) == (False, True, True)
    assert result.config == "given"
    assert "decision 0 (submitted): target of " in result.problems[0]
    assert result.summary.startswith("parity broken: ")
    assert result.gap.parts.signal != 0


def test_another_limit_changes_orders_alone(tmp_path: Path) -> None:
    """The same targets under a smaller order limit: decisions agree, orders do not."""
    folder = recorded(tmp_path).close()
    changed = settings_of(tmp_path / "other", state_dir=str(tmp_path / "var"), risk={"max_order_notional": 0.02})
    result = parity(folder, settings=changed)

    assert not result.ok
    assert (result.checks.decisions, result.checks.orders) == (True, False)
    assert ": order to " in result.problems[0]


def test_costs_of_a_backtest_change_the_gap_alone(tmp_path: Path) -> None:
    """A wider spread in [backtest]: decisions are identical, the gap moves, and by the spread."""
    folder = recorded(tmp_path).close()
    wider = settings_of(tmp_path / "other", state_dir=str(tmp_path / "var"), backtest={"spread_bps": 6.0})
    before, after = parity(folder), parity(folder, settings=wider)

    agree(after)
    assert after.gap.parts.spread > before.gap.parts.spread > 0


def test_a_configuration_for_another_market_is_refused(tmp_path: Path) -> None:
    """Another bar, quote or universe: one line that names both."""
    folder = recorded(tmp_path).close()
    other = settings_of(tmp_path / "other", state_dir=str(tmp_path / "var"), universe=["BTC/USDT", "SOL/USDT"])

    with pytest.raises(ConfigError, match="universe: the run was recorded with") as error:
        parity(folder, settings=other)
    assert "\n" not in str(error.value)


def test_a_strategy_that_cannot_be_set_up_is_refused(tmp_path: Path) -> None:
    """A given configuration must work: one line, no recorded answers in its place."""
    folder = recorded(tmp_path).close()
    broken = settings_of(tmp_path / "other", state_dir=str(tmp_path / "var"), strategy="parity_none:None")

    with pytest.raises(ConfigError, match="parity_none") as error:
        parity(folder, settings=broken)
    assert "\n" not in str(error.value)


def test_f22_a_trade_that_came_late_breaks_bars(tmp_path: Path) -> None:
    """F22: the bar was closed by time; decisions still agree, since both sides had that bar."""
    run = recorded(tmp_path)
    run.prices["BTC/USDT"] *= 1.01
    run.trade("BTC/USDT", event_ns=run.now_ns - BAR_NS - 2 * NS_PER_S)
    result = parity(run.bars(3).close())

    assert (result.ok, result.checks.bars, result.checks.decisions, result.checks.gap) == (False, False, True, True)
    assert result.problems[0].startswith("bars against trades: 1 differ, 0 missing there; first BTC/USDT ")


@pytest.mark.parametrize(("spoil", "ok"), [(0.0, True), (5.0, False)])
def test_candles_are_compared_too(tmp_path: Path, spoil: float, ok: bool) -> None:
    """The venue's candles, as they are and with one close moved."""
    run = recorded(tmp_path)
    folder = run.close()
    result = parity(folder, candles=run.candles(tmp_path / "candles", spoil=spoil))

    assert [one.source for one in result.bars] == ["trades", "candles"]
    assert result.bars[1].equal + result.bars[1].different == 2 * (BARS - 1)
    assert result.bars[0].unchecked == result.bars[1].unchecked == 2 * WARM
    assert (result.ok, result.bars[1].different) == (ok, 0 if ok else 2)


def test_a_strategy_that_is_gone_leaves_the_recorded_answers(tmp_path: Path) -> None:
    """Nothing can be asked again: orders and gap are compared on the recorded answers, and the result says so."""
    folder = recorded(tmp_path).close()
    target = tmp_path / "again" / "paper" / "journal"
    records = list(read_journal(folder / "journal"))
    header = records[0]
    assert isinstance(header, Header)
    worker = msgspec.json.decode(header.worker_json)
    worker["strategy"] = "parity_gone:Gone"
    journal = Journal(
        target,
        10**9,
        start_ns=header.start_ns,
        config_json=header.config_json,
        engine_json=header.engine_json,
        worker_json=msgspec.json.encode(worker).decode(),
    )
    for record in records[1:]:
        if isinstance(record, Frame):
            journal.add_frame(record.recv_ns, record.channel, record.data)
        elif isinstance(record, EffectsHash):
            journal.add_effects_hash(record.count, record.digest)
        else:
            assert not isinstance(record, Header | Piece | Opened | Lost)
            journal.add_event(record)
    journal.close()
    result = parity(tmp_path / "again" / "paper")

    assert result.ok
    assert not result.checks.answers
    assert "parity_gone" in result.notes[0]
    assert "recorded answers were used instead" in result.notes[0]


def test_what_people_did_is_signal_and_told_to_the_free_run(tmp_path: Path) -> None:
    """A flatten by hand: exits are listed, decisions still agree, and the backtest left to itself is flat too."""
    run = recorded(tmp_path, chance=5)
    run.share = (1.0,)
    run.emit(Command("hand", Action.FLATTEN, "test", run.now_ns))
    result = parity(run.bars(4).close())
    exits = [one for one in result.orders if one.cause == Cause.FLATTEN]
    _, free, _ = twinned(run, anchored=False)

    assert exits
    assert [one.intent.symbol for one in free.told.sent if one.intent.cause is Cause.FLATTEN]
    assert sum(free.state.account.positions.values()) < Decimal("0.001")
    assert (result.checks.decisions, result.checks.orders, result.checks.gap) == (True, True, True)
    assert any(note.startswith("exits: ") for note in result.notes)
    assert result.gap.residual == 0


# ---------------------------------------------------------------------------------------------- the residual is a check


def twinned(run: Recorded, *, anchored: bool = True) -> tuple[Stretch, Twin, Marks]:
    """What ``parity`` makes of a run before it judges."""
    watcher = Watcher()
    replay(run.folder / "journal", watch=watcher)
    stretch = watcher.best
    assert stretch is not None
    stretch.cut()
    panel, first = panel_of(stretch)
    hiring = Hiring(wiring.worker_config(run.settings), run.folder, any_model=True)
    plan = Plan(config=stretch.config, venue=venue_config(run.settings), rearm_ns=10**18, hiring=hiring)
    return stretch, run_twin(stretch, panel, first, plan=plan, anchored=anchored), Marks(panel)


def test_an_execution_that_is_not_accounted_for_is_residual(tmp_path: Path) -> None:
    """The gap comes from the accounts: forget an execution of either side, and what it brought is left over."""
    run = recorded(tmp_path)
    run.close()
    stretch, twin, marks = twinned(run)

    def residual() -> list[Interval]:
        return [one for one in intervals_of(stretch, twin.told, marks) if one.residual]

    assert residual() == []
    lost = stretch.executions.pop(3)
    (odd,) = residual()
    prices = marks.at(odd.end_ns)
    sign = 1 if lost.fill.side == "buy" else -1
    fee = lost.fill.fee * (prices[lost.fill.symbol] if lost.fill.fee_asset != "USDT" else 1)

    assert odd.number == lost.at
    assert odd.residual == sign * lost.fill.qty * (prices[lost.fill.symbol] - lost.fill.price) - fee
    stretch.executions.insert(3, lost)
    gone = twin.told.executions.pop(0)
    assert [one.number for one in residual()] == [gone.at]


def test_the_backtest_fills_at_its_own_prices(tmp_path: Path) -> None:
    """Arrival is the next open, the touch half a spread away, whatever the recorded venue gave."""
    run = recorded(tmp_path)
    run.close()
    stretch, twin, _ = twinned(run)
    opens = {one.decide.close_ns: one for one in stretch.asked}
    panel, _ = panel_of(stretch)

    assert twin.told.executions
    for one in twin.told.executions:
        close_ns = stretch.asked[one.at].decide.close_ns
        row = panel.values[panel.place(close_ns), panel.symbols.index(one.fill.symbol)]
        half = Decimal("0.0001") * (1 if one.fill.side == "buy" else -1)
        assert close_ns in opens
        assert one.arrival == Decimal(repr(float(row[0])))
        assert one.touch == one.arrival * (1 + half)


def test_recorded_executions_meet_the_last_book_before_them(tmp_path: Path) -> None:
    """The kit's venue fills a tick beyond the touch of the book it shows: that book is found, its middle is the arrival."""
    run = recorded(tmp_path)
    run.close()
    stretch, _, _ = twinned(run)

    assert len(stretch.executions) == run.fills > 5
    for one in stretch.executions:
        sign = 1 if one.fill.side == "buy" else -1
        assert one.fill.price - one.touch == sign * Decimal("0.01")
        assert 0 < sign * (one.touch - one.arrival) / one.arrival < Decimal("0.00012")


def test_an_exit_was_decided_at_the_price_that_asked_for_it() -> None:
    """Of an order of a decision the close counts, of a stop its own reference; what traded without an order was missed before."""
    stop = make_intent(client_id="s", cause=Cause.STOP_LOSS, side=Side.SELL, qty=Decimal(2), reference=Decimal(91))
    bar = make_intent(client_id="d", qty=Decimal(3), reference=Decimal(99))
    sent = [Sent(intent=stop, at=0), Sent(intent=bar, at=0)]
    fill = Fill("BTC/USDT", "1", "d", "v", Side.BUY, Decimal(1), Decimal(102), Decimal("0.1"), "BTC", False, 0, "t")
    late = msgspec.structs.replace(fill, client_id="older", trade_id="2")
    met = [Execution(fill=one, at=0, arrival=Decimal(101), touch=Decimal(101)) for one in (fill, late)]
    exit_, order, older = orders_of(sent, met, decided={"BTC/USDT": Decimal(100)}, quote="USDT")

    assert (exit_.qty, exit_.decided, exit_.trades) == (-2, 91, ())
    assert (order.qty, order.decided, len(order.trades)) == (3, 100, 1)
    assert (older.qty, older.decided, len(older.trades)) == (0, 100, 1)
    assert older.trades[0].fee_base == Decimal("0.1")


def test_a_new_model_serves_from_the_next_close_on(tmp_path: Path) -> None:
    """As the recorded run: what came up behind a column decides on the next one, and is hired once."""
    run = recorded(tmp_path)
    run.close()
    stretch, _, _ = twinned(run)
    closes = [one.decide.close_ns for one in stretch.asked]
    ups = [(0, "a:1"), (closes[0], "b:2"), (closes[3], "c:3")]
    stretch.models = [(column, WorkerUp(name, at, 0)) for at, (column, name) in enumerate(ups)]
    hired: list[str] = []

    class Agency(Hiring):
        """Notes who is asked for."""

        def hire(self, model: str, trained_ns: int, asked: list[Asked]) -> Worker:
            hired.append(model)
            return Answers(asked, model, trained_ns)

    shift = Shift(stretch, Agency(wiring.worker_config(run.settings), tmp_path, any_model=False))
    changes = [served.model if (served := shift.retrain(close)) is not None else "" for close in closes]

    assert hired == ["a:1", "b:2", "c:3"]
    assert [(at, name) for at, name in enumerate(changes) if name] == [(1, "b:2"), (4, "c:3")]
    assert (shift.ready.model, shift.ready.trained_ns) == ("c:3", 2)


def test_a_maker_stands_at_its_own_price(tmp_path: Path) -> None:
    """A resting order's touch is its price, on both sides: what it earns against the middle is spread, never impact."""
    run = Recorded(tmp_path, chance=9, execution={"order": "limit"})
    run.maker = True
    result = parity(run.start().bars(BARS).close())
    stretch, twin, _ = twinned(run)

    agree(result)
    assert all(one.touch == one.fill.price for one in stretch.executions)
    assert all(one.touch == one.arrival == one.fill.price for one in twin.told.executions if one.fill.maker)
    assert [one for one in twin.told.executions if one.fill.maker]


def test_times_of_a_venue_are_turned_into_our_own(tmp_path: Path) -> None:
    """Live, an execution is dated by the venue's clock: ours being ahead, the book it met is looked for later by as much."""
    run = Recorded(tmp_path, mode="live", live_confirm="main", chance=4)
    run.start().bars(3)
    watcher = Watcher()
    engine = run.runner.engine
    books = [Book("BTC/USDT", 100.0 + at, 1.0, 101.0 + at, 1.0, at * NS_PER_S) for at in range(5)]
    fill = Fill(
        symbol="BTC/USDT",
        trade_id="9",
        client_id="x",
        venue_id="1",
        side=Side.BUY,
        qty=Decimal(1),
        price=Decimal(103),
        fee=Decimal(0),
        fee_asset="USDT",
        maker=False,
        ts_event_ns=NS_PER_S + 1,
        source="stream",
    )
    engine.state.offset_ns = 2 * NS_PER_S
    for one in books:
        watcher(engine, one, ())
    watcher(engine, fill, (Booked(fill, None),))
    (met,) = watcher.stretches[-1].executions

    assert (met.arrival, met.touch) == (Decimal("103.5"), Decimal(104))


# ---------------------------------------------------------------------------------------------- what it looks like


def test_document_tables_and_files_say_the_same(tmp_path: Path) -> None:
    """JSON is plain, tables have a row for what there is, files hold all rows and are the same bytes again."""
    result = parity(recorded(tmp_path).close())
    tree = json.loads(json.dumps(document(result)))
    grids = {one.key: one for one in tables(result)}
    for name in ("one", "two"):
        write(tmp_path / name, result)
    intervals = parquet.read_table(tmp_path / "one" / "intervals.parquet").to_pylist()
    orders = parquet.read_table(tmp_path / "one" / "orders.parquet").to_pylist()

    assert tree["summary"] == result.summary
    assert Decimal(tree["gap"]["total"]) == result.gap.total
    assert set(tree["gap"]["parts"]) == set(PARTS)
    assert len(tree["intervals"]) == len(result.intervals)
    assert tree["intervals"][0]["begin_iso"].endswith("Z")
    assert len(grids["decisions"].rows) == len(result.decisions)
    assert all(len(row) == len(grid.columns) for grid in grids.values() for row in grid.rows)
    whole = [row for row in intervals if not row["pair"]]
    assert sum(row["gap"] for row in whole) == pytest.approx(float(result.gap.total))
    assert sum(row["delay"] for row in intervals if row["pair"]) == pytest.approx(float(result.gap.parts.delay))
    assert len(orders) == len(result.orders)
    assert {row["cause"] for row in orders} <= {str(one) for one in DECIDED}
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_nothing_to_compare_is_said_in_one_line(tmp_path: Path) -> None:
    """No journal, an empty one, a run that decided nothing, a file that is none."""
    quiet = Recorded(tmp_path / "quiet").start()
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.journal").write_bytes(b"no journal at all")
    for path, words in (
        (quiet.close(), "nothing was decided"),
        (tmp_path / "empty", "no journal segments"),
        (tmp_path / "noise.journal", "noise.journal"),
    ):
        with pytest.raises(ConfigError, match=words) as error:
            parity(path)
        assert "\n" not in str(error.value)


def test_a_damaged_journal_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    """A byte changed in the middle: what came before is compared, and parity is broken by name."""
    run = Recorded(tmp_path, journal={"segment_bytes": 16_384, "max_bytes": 200_000}).start()
    for _ in range(30):
        run.bars(1)
        run.journal.flush_now()
    (part,) = sorted((run.close() / "journal").iterdir())[:1]
    data = bytearray(part.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    part.write_bytes(bytes(data))
    result = parity(run.folder)

    assert not result.ok
    assert not result.checks.journal
    assert result.problems[0].startswith("the journal does not replay equal: ")
    assert "damaged" in result.problems[0]
    assert len(result.decisions) > 3
