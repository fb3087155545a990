"""The worker process: buffers, view, strategy, containment. Stages 4 to 6 of the line run here and nowhere else.

Run as ``python -m daemon.edge.worker_child FD``; the daemon starts it (``daemon/edge/worker.py``). ``InlineWorker``
is the same code without the process, for backtest and replay.
"""

import contextlib
import ctypes
import gc
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module

import msgspec
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from daemon.core.buffers import FIELDS, ROW_FIELDS, Buffers
from daemon.domain.events import Decide, Decided, Seed
from daemon.domain.market import Bar
from daemon.domain.signal import NoDecision, NoReason, Strategy, Targets, View
from daemon.edge.clock import Clock
from daemon.edge.containment import clipped_note, contain, refusal
from daemon.edge.worker_wire import (
    TO_CHILD,
    Answer,
    Bars,
    Failed,
    Frames,
    Ready,
    Reload,
    WorkerConfig,
    frame,
    one_line,
)
from strategies.limits import Limits, limits_of
from strategies.params import NeedsSetup, Timings

READ_BYTES = 1 << 20
PR_SET_PDEATHSIG = 1
CLOSE, VOLUME = 3, 4
NOTHING_SPENT = Timings()


class InlineWorker:
    """A strategy with its rolling buffers: seeded in full, then fed by each ``Decide``.

    Whatever the strategy does, ``decide`` answers: an exception, a wrong shape or a number that is not finite becomes
    ``NoDecision`` with one line, weights beyond a limit are clipped and named in ``binding``. Time comes from the
    events; ``monotonic_ns`` only measures durations, and without it they are 0.

    Raises
    ------
    ValueError
        When the strategy cannot be imported or set up.
    """

    def __init__(self, config: WorkerConfig, monotonic_ns: Callable[[], int] | None = None) -> None:
        self._config = config
        self._monotonic_ns = monotonic_ns or int
        self.note = ""
        random.seed(config.seed)
        np.random.seed(config.seed)  # noqa: NPY002 - a strategy that draws from the global generator is repeatable too
        with contextlib.redirect_stdout(sys.stderr):
            self._strategy = _load_strategy(config.strategy, config.folders)
        self._learner = self._strategy if isinstance(self._strategy, NeedsSetup) else None
        self._params = msgspec.msgpack.encode(config.params)
        self._buffers: Buffers | None = None
        self._symbols: tuple[str, ...] = ()
        self._daily: NDArray[np.float64] | None = None
        self.ready = self.reload()

    @property
    def strategy(self) -> Strategy:
        """Return the strategy that answers."""
        return self._strategy

    def reload(self) -> Ready:
        """Load the model that is current now and return what is served; a refused model leaves the old one in place."""
        info = None
        if self._learner is not None:
            with contextlib.redirect_stdout(sys.stderr):
                info = self._learner.setup(self._config.setup, self._monotonic_ns)
        bound_threads(self._config.seed)
        self.ready = Ready(info.model, info.trained_ns, info.detail) if info else Ready("", 0, "", learns=False)
        return self.ready

    def seed(self, seed: Seed) -> None:
        """Replace the buffers: closed bars of every symbol and daily closes."""
        self._symbols = seed.symbols
        tables = [np.frombuffer(one, dtype=np.float64).reshape(-1, ROW_FIELDS) for one in seed.rows]
        last_ns = max((int(one[-1, 0]) for one in tables if one.size), default=0)
        self._buffers = Buffers.from_rows(
            [without_holes(one, bar_ns=seed.bar_ns, last_ns=last_ns).tobytes() for one in tables],
            capacity=self._config.buffer_bars,
            bar_ns=seed.bar_ns,
        )
        self._daily = daily_returns([np.frombuffer(one, dtype=np.float64) for one in seed.daily])

    def append(self, bars: tuple[Bar, ...], daily: tuple[bytes, ...] = ()) -> None:
        """Append closed bars without a decision, a column per close; a symbol without a bar gets an empty one.

        ``daily`` replaces the daily closes unless it is empty.
        """
        if daily:
            self._daily = daily_returns([np.frombuffer(one, dtype=np.float64) for one in daily])
        buffers = self._buffers
        if buffers is None:
            return
        if (whole := _whole_column(bars, self._symbols, buffers)) is not None:
            buffers.append_column(bars[0].close_ns, whole)
            return
        index = {symbol: i for i, symbol in enumerate(self._symbols)}
        columns: dict[int, list[Bar]] = {}
        for bar in bars:
            if bar.symbol in index and bar.close_ns > buffers.close_ns:
                columns.setdefault(bar.close_ns, []).append(bar)
        for close_ns in sorted(columns):
            holes = (close_ns - buffers.close_ns) // buffers.bar_ns - 1 if buffers.count else 0
            if holes >= buffers.capacity:  # nothing we hold is within reach any more
                buffers = self._buffers = Buffers(buffers.n_assets, buffers.capacity, buffers.bar_ns)
                holes = 0
            for _ in range(holes):
                buffers.append_column(buffers.close_ns + buffers.bar_ns, _empty_column(buffers))
            column = _empty_column(buffers)
            for bar in columns[close_ns]:
                column[index[bar.symbol]] = (bar.open, bar.high, bar.low, bar.close, bar.volume)
            buffers.append_column(close_ns, column)

    def decide(self, decide: Decide) -> Decided:
        """Append the bars that closed, ask the strategy, contain its answer."""
        spent = NOTHING_SPENT
        shown, sys.stdout = sys.stdout, sys.stderr  # what a strategy prints must not get into a command's output
        try:
            self.append(decide.bars, decide.daily)
            result = self._ask(decide)
            if self._learner is not None:
                spent = _sound_timings(self._learner.timings)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a strategy raises is contained and reported
            result = NoDecision(NoReason.STRATEGY_RAISED, one_line(error))
        finally:
            sys.stdout = shown
        self.note = "; ".join(one for one in (spent.note, clipped_note(result)) if one)
        return Decided(
            seq=decide.seq,
            result=result,
            features_ns=spent.features_ns,
            forecast_ns=spent.forecast_ns,
            solve_ns=spent.solve_ns,
            ts_ns=decide.ts_ns,
            raw_skill=spent.raw_skill,
        )

    def _ask(self, decide: Decide) -> Targets | NoDecision:
        buffers = self._buffers
        if buffers is None or decide.symbols != self._symbols:
            return NoDecision(NoReason.NOT_READY, "the worker was not seeded with these symbols")
        if buffers.count == 0 or buffers.close_ns != decide.close_ns:
            return NoDecision(
                NoReason.NOT_READY,
                f"buffers end at {buffers.close_ns}, the decision is about the close at {decide.close_ns}",
            )
        view = View(
            seq=decide.seq,
            ts_ns=decide.close_ns,
            bar_ns=decide.bar_ns,
            symbols=decide.symbols,
            bars=buffers.window(buffers.count),
            weights=decide.weights,
            frozen=decide.frozen,
            caps=decide.caps,
            equity=decide.equity,
            cash_weight=decide.cash_weight,
            turnover_left=decide.turnover_left,
            daily=self._daily,
        )
        params: dict[str, object] = msgspec.msgpack.decode(self._params)  # its own copy: what it changes there is lost
        answer = self._strategy.decide(view, params)
        return refusal(answer) if isinstance(answer, NoDecision) else contain(answer, decide, self._limits(decide))

    def _limits(self, decide: Decide) -> Limits:
        return limits_of(
            self._config.setup.optimizer,
            w0=np.array(decide.weights),
            caps=np.array(decide.caps),
            frozen=np.array(decide.frozen, dtype=np.bool_),
            turnover_left=decide.turnover_left,
        )


def _whole_column(bars: tuple[Bar, ...], symbols: tuple[str, ...], buffers: Buffers) -> NDArray[np.float64] | None:
    """Return (n_assets, 5) when ``bars`` are the next column, whole and in order: what comes nearly always."""
    if len(bars) != buffers.n_assets or not buffers.count:
        return None
    close_ns = buffers.close_ns + buffers.bar_ns
    for bar, symbol in zip(bars, symbols, strict=True):
        if bar.close_ns != close_ns or bar.symbol != symbol:
            return None
    return np.array([(bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in bars])


def _empty_column(buffers: Buffers) -> NDArray[np.float64]:
    """Return (n_assets, 5) bars without trades: the last close as every price and no volume, NaN where none was."""
    column = np.full((buffers.n_assets, FIELDS), np.nan)
    if buffers.count:
        column[:, :VOLUME] = buffers.window(1)[:, 0, CLOSE, None]
        column[:, VOLUME] = np.where(np.isnan(column[:, CLOSE]), np.nan, 0.0)
    return column


def without_holes(table: NDArray[np.float64], *, bar_ns: int, last_ns: int) -> NDArray[np.float64]:
    """Return rows (n, 6) with an empty bar for every close missing up to ``last_ns``: what ``append`` would have made."""
    if not table.size:
        return table
    places = np.rint((table[:, 0] - table[0, 0]) / bar_ns).astype(np.int64)
    wanted = np.arange(round((last_ns - table[0, 0]) / bar_ns) + 1)
    if places.size == wanted.size:
        return table
    source = np.searchsorted(places, wanted, side="right") - 1
    filled: NDArray[np.float64] = table[source]
    empty = places[source] != wanted
    filled[:, 0] = table[0, 0] + bar_ns * wanted
    filled[empty, 1:ROW_FIELDS] = filled[empty, 1 + CLOSE, None]
    filled[empty, 1 + VOLUME] = 0.0
    return filled


def daily_returns(closes: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """Return simple daily returns (n_days, n_assets), aligned at the newest day, NaN where unknown; None without any."""
    days = max((one.size for one in closes), default=0)
    if days < 2:
        return None
    table = np.full((days, len(closes)), np.nan)
    for i, one in enumerate(closes):
        if one.size:
            table[-one.size :, i] = np.where(np.isfinite(one) & (one > 0.0), one, np.nan)
    returns: NDArray[np.float64] = table[1:] / table[:-1] - 1.0
    returns.flags.writeable = False  # every view shows the same table
    return returns


def _load_strategy(spec: str, folders: tuple[str, ...]) -> Strategy:
    """Import ``module:Class``, from the folders of the configuration last, and make one. Raises ValueError with one line."""
    # Behind everything installed: a file beside a configuration must not take the place of a library.
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    module, _, name = spec.partition(":")
    try:
        strategy: Strategy = getattr(import_module(module), name)()
    except ModuleNotFoundError as error:
        looked = ", ".join(folders) or "a configuration file's folder"
        raise ValueError(
            f"strategy = {spec!r} cannot be used: no module {error.name!r}, neither installed nor in {looked}"
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"strategy = {spec!r} cannot be used: {one_line(error)}") from error
    if not callable(getattr(strategy, "decide", None)):
        raise ValueError(f"strategy = {spec!r} has no method decide(view, params)")
    return strategy


def _sound_timings(timings: object) -> Timings:
    """Return a strategy's timings; raises TypeError when they are something else, which is contained like all it raises."""
    if not isinstance(timings, Timings):
        raise TypeError(f"timings is {type(timings).__name__}, not Timings")
    return timings


def bound_threads(seed: int) -> None:
    """Keep linear algebra and torch on one thread: reproducible to the last bit, and no stalls on small machines."""
    threadpool_limits(limits=1)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)


def rss_bytes() -> int:
    """Return this process's resident size in bytes, 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - read after every decision
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def serve(link: socket.socket) -> None:
    """Answer messages until the daemon closes the socket."""
    frames = Frames()
    worker: InlineWorker | None = None
    while data := link.recv(READ_BYTES):
        for body in frames.feed(data):
            message = TO_CHILD.decode(body)
            if isinstance(message, WorkerConfig):
                try:
                    worker = InlineWorker(message, Clock().mono_ns)
                except Exception as error:  # noqa: BLE001 - whatever a strategy's start raises ends this child with one line
                    link.sendall(frame(Failed(one_line(error))))
                    return
                gc.collect()
                gc.freeze()
                link.sendall(frame(worker.ready))
            elif worker is None:
                return
            elif isinstance(message, Reload):
                link.sendall(frame(_reload(worker)))
            elif isinstance(message, Seed):
                worker.seed(message)
            elif isinstance(message, Bars):
                worker.append(message.bars, message.daily)
            else:
                link.sendall(_answer(worker.decide(message), worker.note))


def _answer(decided: Decided, note: str) -> bytes:
    """Return the answer as a message; one that holds what is no plain value is contained like any other fault."""
    try:
        return frame(Answer(decided, rss_bytes(), note))
    except (TypeError, ValueError, OverflowError) as error:
        refused = NoDecision(NoReason.STRATEGY_RAISED, f"the answer cannot be sent: {one_line(error)}")
        return frame(Answer(msgspec.structs.replace(decided, result=refused), rss_bytes(), note))


def _reload(worker: InlineWorker) -> Ready:
    """Reload the model; one that cannot be used leaves the champion serving."""
    try:
        return worker.reload()
    except Exception as error:  # noqa: BLE001 - a bad model must not end the worker that serves a good one
        return msgspec.structs.replace(worker.ready, detail=one_line(error))


def main(arguments: list[str]) -> int:
    """Serve on the inherited socket ``arguments[0]``; end with the daemon, whatever happens to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    if sys.platform == "linux":  # elsewhere the closed socket ends us, once the strategy lets us look at it
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked to follow it
            return 1
    os.dup2(2, 1)  # a strategy that prints must not write into the daemon's stdout
    with socket.socket(fileno=int(arguments[0])) as link:
        serve(link)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
