"""Does the backtest tell the truth about a run? Compare bars, decisions, orders and fills, and explain the gap in profit.

A recorded run is replayed to learn what it knew, decided, sent and got; the same period runs through the backtest's own
session (``daemon.backtest.parity_run``); ``docs/parity.md`` says what is compared how.
"""

import math
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec
from pydantic import ValidationError

from daemon.backtest.history import load_panel
from daemon.backtest.parity_bars import BarCounts, check_candles
from daemon.backtest.parity_compare import (
    DECIDED,
    DecisionRow,
    OrderRow,
    compare_decision,
    compare_orders,
    target_error,
)
from daemon.backtest.parity_gap import Interval, Marks, bps, intervals_of, total_of, valuation
from daemon.backtest.parity_read import Stretch, Watcher
from daemon.backtest.parity_run import Hiring, Plan, panel_of, run_twin
from daemon.backtest.parity_split import Parts, worth
from daemon.backtest.parity_twin import Twin
from daemon.backtest.replay import chosen, replay
from daemon.backtest.run import venue_config
from daemon.core.books import exactly
from daemon.domain.errors import ConfigError
from daemon.domain.market import Bar
from daemon.edge.worker_wire import WorkerConfig
from daemon.outlets.journal import Header, read_segment
from daemon.service import wiring
from daemon.settings import Settings

RESIDUAL_BPS: Final = 1.0
"""A gap is explained when no more than this part of equity is left over, in total and in every interval."""
ZERO: Final = Decimal(0)
PROBLEMS_MAX: Final = 20


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Profit of both sides from the first decision to the end, quote currency; parts are recorded less backtest.

    ``reported`` is the profit by the daemon's own equity, ``valuation`` how much of it is books that had moved on from the
    bars' closes by which both sides are measured here. ``free`` is the backtest left to itself, ``carried`` its further
    distance: other holdings after each difference, and orders planned at closes, without books. Its targets were at most
    ``free_target_error`` away from those of the run (None without any).
    """

    equity: Decimal
    recorded: Decimal
    reported: Decimal
    valuation: Decimal
    backtest: Decimal
    total: Decimal
    parts: Parts
    assets: dict[str, Parts]
    residual: Decimal
    residual_bps: float
    worst_bps: float
    free: Decimal
    carried: Decimal
    free_target_error: float | None


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """What agrees. ``answers`` is false when the model was not there and recorded answers took its place."""

    journal: bool
    bars: bool
    decisions: bool
    orders: bool
    gap: bool
    answers: bool


class ParityResult(msgspec.Struct, frozen=True, kw_only=True):
    """The whole comparison."""

    ok: bool
    checks: Checks
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    mode: str
    code_version: str
    config: str
    """Whose configuration the backtest ran with: recorded or given."""
    start_ns: int
    end_ns: int
    symbols: tuple[str, ...]
    bar_ns: int
    bars: tuple[BarCounts, ...]
    decisions: tuple[DecisionRow, ...]
    orders: tuple[OrderRow, ...]
    intervals: tuple[Interval, ...]
    gap: Gap

    @property
    def summary(self) -> str:
        """Return the outcome in one line."""
        made = [one for one in self.decisions if one.made]
        same = sum(not one.difference for one in made)
        orders = [one for one in self.orders if one.cause in DECIDED]
        parts = (
            f"{same} of {len(made)} decisions and {sum(one.equal for one in orders)} of {len(orders)} orders identical, "
            f"gap {float(self.gap.total):+.2f} = {bps(self.gap.total, self.gap.equity):+.2f} bp of equity, "
            f"unexplained {self.gap.residual_bps:.3f} bp"
        )
        if not self.checks.answers:
            parts += ", answers as recorded"
        if self.ok:
            return f"parity: {parts}"
        return f"parity broken: {parts}: {self.problems[0]}"


def parity(run: Path, *, settings: Settings | None = None, candles: Path | None = None) -> ParityResult:
    """Compare a recorded run with a backtest of the same period.

    Parameters
    ----------
    run
        A journal folder, the folder of a mode that holds one, or one segment; of a folder the newest run.
    settings
        The backtest's configuration; None: the recorded one.
    candles
        Folder of candle files to compare the recorded bars with; None: with the recorded trades alone.

    Raises
    ------
    ConfigError
        There is no such run, it decided nothing, or the configuration is for another market; one line.
    """
    journal = run / "journal" if (run / "journal").is_dir() else run
    header, stretch, difference = _read(journal)
    own = settings is None
    settings = settings or _recorded(header)
    panel, first = panel_of(stretch)
    plan = _plan(header, stretch, settings, journal=journal, own=own)
    twin = run_twin(stretch, panel, first, plan=plan, anchored=True)
    free = run_twin(stretch, panel, first, plan=plan, anchored=False)
    start_ns = stretch.asked[0].decide.close_ns
    bars = [bar for _, bar in sorted(stretch.bars.items(), key=lambda item: (item[0][1], item[0][0]))]
    counts = [stretch.trades.check(bars)]
    if candles is not None:
        counts.append(_candles(candles, settings, bars))
    orders = compare_orders(stretch.asked, stretch.sent, stretch.executions, twin.told)
    by_decision: dict[int, list[OrderRow]] = {}
    for row in orders:
        by_decision.setdefault(row.number, []).append(row)
    decisions = [compare_decision(at, one, twin.told, by_decision.get(at, ())) for at, one in enumerate(stretch.asked)]
    marks = Marks(panel)
    intervals = intervals_of(stretch, twin.told, marks)
    gap = _gap(stretch, free, marks, intervals)
    problems, checks = _judge(difference, counts, decisions, gap, answers=not plan.hiring.problem)
    return ParityResult(
        ok=not problems,
        checks=checks,
        problems=tuple(problems[:PROBLEMS_MAX]),
        notes=tuple(_notes(plan.hiring, stretch, decisions, orders, intervals=len(intervals))),
        mode=stretch.config.mode,
        code_version=header.code_version,
        config="recorded" if own else "given",
        start_ns=start_ns,
        end_ns=intervals[-1].end_ns if intervals else stretch.asked[-1].decide.close_ns,
        symbols=stretch.config.universe,
        bar_ns=stretch.config.bar_ns,
        bars=tuple(counts),
        decisions=tuple(decisions),
        orders=tuple(orders),
        intervals=tuple(intervals),
        gap=gap,
    )


# ---------------------------------------------------------------------------------------------- what goes in


def _read(journal: Path) -> tuple[Header, Stretch, str]:
    """Replay the journal; return its header, the part of it with the most decisions, and what differed in the replay."""
    watcher = Watcher()
    try:
        header = next(read_segment(chosen(journal)[0]), None)
        result = replay(journal, watch=watcher)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None
    stretch = watcher.best
    if stretch is None or not isinstance(header, Header):
        raise ConfigError(f"{journal}: nothing was decided in this run: there is nothing to compare")
    stretch.cut()
    return header, stretch, result.difference


def _recorded(header: Header) -> Settings:
    try:
        return Settings.model_validate(msgspec.json.decode(header.config_json))
    except (ValidationError, msgspec.DecodeError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"the recorded configuration (code {header.code_version}) does not fit this version ({first}); give one with -c"
        ) from None


def _recorded_worker(header: Header) -> WorkerConfig:
    try:
        return msgspec.json.decode(header.worker_json, type=WorkerConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"the recorded worker's configuration (code {header.code_version}) does not fit this version ({error}); "
            "give one with -c"
        ) from None


def _plan(header: Header, stretch: Stretch, settings: Settings, *, journal: Path, own: bool) -> Plan:
    """Return what the backtest is told: the very configuration of engine and worker, or what the given one makes of them."""
    config = stretch.config
    worker = _recorded_worker(header) if own else wiring.worker_config(settings)
    if not own:
        given = wiring.engine_config(settings, config.account)
        for name in ("universe", "quote", "bar_ns"):
            if getattr(given, name) != getattr(config, name):
                was, now = getattr(config, name), getattr(given, name)
                raise ConfigError(
                    f"{name}: the run was recorded with {was}, the configuration has {now}; they cannot be compared"
                )
        config = msgspec.structs.replace(given, instance=config.instance)
    folder = journal if journal.is_dir() else journal.parent
    registry = folder.resolve().parents[1] / "models"  # <state_dir>/<mode>/journal, <state_dir>/models
    return Plan(
        config=config,
        venue=venue_config(settings),
        rearm_ns=settings.backtest.rearm_after_ns,
        hiring=Hiring(worker, registry, any_model=not own),
    )


def _candles(folder: Path, settings: Settings, bars: list[Bar]) -> BarCounts:
    """Compare with candle files, over the recorded time alone."""
    start_ns, end_ns = min(bar.open_ns for bar in bars), max(bar.close_ns for bar in bars)
    panel = load_panel(
        folder, settings.universe, bar=settings.bar, bar_ns=settings.bar_ns, start_ns=start_ns, end_ns=end_ns
    )
    return check_candles(bars, panel)


# ---------------------------------------------------------------------------------------------- what comes out


def _gap(stretch: Stretch, free: Twin, marks: Marks, intervals: list[Interval]) -> Gap:
    """Add the intervals up, and measure the free run by the same prices."""
    first = stretch.asked[0]
    equity = first.moment.equity
    by_asset: dict[str, list[Parts]] = {}
    for one in intervals:
        for symbol, parts in one.parts.items():
            by_asset.setdefault(symbol, []).append(parts)
    assets = {symbol: total_of(parts) for symbol, parts in sorted(by_asset.items())}
    total = total_of(assets.values())
    with exactly():
        recorded = sum((one.recorded for one in intervals), ZERO)
        backtest = sum((one.backtest for one in intervals), ZERO)
        residual = recorded - backtest - total.total
    begin_ns = first.decide.close_ns
    last = stretch.end.moment if stretch.end is not None else stretch.asked[-1].moment
    end_ns = intervals[-1].end_ns if intervals else begin_ns
    begin, end = marks.at(begin_ns), marks.at(end_ns)
    with exactly():
        moved = valuation(last, end) - valuation(first.moment, begin)
        alone = worth(free.state.account.cash, free.state.account.positions, end)
        own = alone - worth(first.moment.cash, first.moment.positions, begin) - free.brought(end)
    return Gap(
        equity=equity,
        recorded=recorded,
        reported=recorded + moved,
        valuation=moved,
        backtest=backtest,
        total=recorded - backtest,
        parts=total,
        assets=assets,
        residual=residual,
        residual_bps=abs(bps(residual, equity)),
        worst_bps=max((abs(bps(one.residual, equity)) for one in intervals), default=0.0),
        free=own,
        carried=backtest - own,
        free_target_error=target_error(stretch.asked, free.told),
    )


def _judge(
    difference: str, counts: list[BarCounts], decisions: list[DecisionRow], gap: Gap, *, answers: bool
) -> tuple[list[str], Checks]:
    """Return what is broken, one line each, worst first."""
    problems: list[str] = []
    if difference:
        problems.append(f"the journal does not replay equal: {difference}")
    wrong = [one for one in decisions if one.difference]
    problems += [f"decision {one.number} ({one.outcome}): {one.difference}" for one in wrong]
    for one in counts:
        if one.different or one.missing:
            first = one.examples[0] if one.examples else None
            what = f"; first {first.symbol} {first.field} {first.recorded!r} not {first.other!r}" if first else ""
            problems.append(f"bars against {one.source}: {one.different} differ, {one.missing} missing there{what}")
    explained = math.isfinite(gap.worst_bps) and gap.residual_bps < RESIDUAL_BPS and gap.worst_bps < RESIDUAL_BPS
    if not explained:
        problems.append(
            f"{gap.residual_bps:.3f} bp of equity are not explained, {gap.worst_bps:.3f} bp in one interval"
        )
    by_orders = [one for one in wrong if one.difference.startswith("order ")]
    checks = Checks(
        journal=not difference,
        bars=not any(one.different or one.missing for one in counts),
        decisions=len(by_orders) == len(wrong),
        orders=not by_orders,
        gap=explained,
        answers=answers,
    )
    return problems, checks


def _notes(
    hiring: Hiring, stretch: Stretch, decisions: list[DecisionRow], orders: list[OrderRow], *, intervals: int
) -> list[str]:
    """Return what a reader should know though nothing is broken."""
    notes: list[str] = []
    if hiring.problem:
        notes.append(f"the worker could not be asked again ({hiring.problem}): its recorded answers were used instead")
    unmade = sum(not one.made for one in decisions)
    if unmade:
        notes.append(f"{unmade} questions were not answered in time in the recorded run: their gap is signal")
    exits = [one for one in orders if one.cause not in DECIDED]
    if exits:
        here, there = sum(bool(one.qty) for one in exits), sum(bool(one.backtest_qty) for one in exits)
        notes.append(f"exits: {here} recorded, {there} in the backtest, which knows of a bar only how far it went")
    quote = stretch.config.quote
    third = {one.fill.fee_asset for one in stretch.executions} - {
        quote,
        *(s.partition("/")[0] for s in stretch.instruments),
    }
    if third:
        notes.append(f"fees taken in {', '.join(sorted(third))} are in nobody's equity and in no part of the gap")
    if not intervals:
        notes.append("the recording ends with its only decision: there is no profit to compare")
    return notes
