"""Who reads the engine from outside leaves no trace in what is recorded of it."""

from pathlib import Path

from daemon.backtest.replay import replay
from daemon.service.recording import Recording
from tests.backtest.parity_kit import Recorded


def test_i10_valuing_the_portfolio_from_outside_is_not_state(tmp_path: Path) -> None:
    """I10: the API values positions at prices the engine has not valued them at; the next segment opens with equal state."""
    run = Recorded(tmp_path, chance=7, journal={"segment_bytes": 16_384, "max_bytes": 10**6}).start()
    recording = Recording(run.journal, run.runner)
    engine = run.runner.engine
    for _ in range(40):
        run.bars(1)
        for symbol in run.prices:
            run.prices[symbol] *= 1.001
            run.quote(symbol)
        assert engine.state.equity() is not None
        run.journal.flush_now()
        recording.look()
    result = replay(run.close() / "journal")

    assert len(result.segments) >= 3
    assert engine.state.account.positions
    assert (result.ok, result.difference) == (True, "")
