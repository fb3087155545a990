"""Several runs side by side: the best marked, what differs, how much choosing proves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.backtest.report.compare import RUNS_MAX, choice, differences, grids, load_runs, page
from daemon.backtest.report.folder import Run
from daemon.backtest.report.series import daily
from daemon.backtest.stats.overfitting import overfitting
from daemon.domain.errors import UsageError
from tests.backtest.report.kit import Plan, change_result, write_run
from tests.backtest.report.pages import Elements, figures


def made(folder: Path, *plans: Plan) -> list[Run]:
    """Write runs and load them."""
    for at, plan in enumerate(plans):
        write_run(folder / f"run{at}", plan)
    return load_runs([folder / f"run{at}" for at in range(len(plans))])


def test_the_best_of_each_row_is_marked(tmp_path: Path) -> None:
    """The highest return, the smallest drawdown, the lowest fees; nothing where nothing is better or all are equal."""
    runs = made(tmp_path, *(Plan(seed=seed, bars=24 * 60) for seed in range(4)))
    table = grids(runs, choice(runs))[0]
    labels = [row[0] for row in table.rows]

    def marked(label: str) -> list[int]:
        return [at - 1 for row, at in table.marks if labels[row] == label]

    def of(key: str) -> list[float]:
        return [float(run.result[key]) for run in runs]

    assert marked("Total profit") == [int(np.argmax(of("total_return")))]
    assert marked("Max drawdown") == [int(np.argmax(of("max_drawdown")))]
    assert marked("Fees") == [int(np.argmin(of("fees")))]
    assert marked("Volatility a year") == [int(np.argmin(of("volatility")))]
    assert marked("Average gross exposure") == []
    assert marked("Starting balance") == []
    assert marked("Slippage cost") == []


def test_choosing_is_judged_on_shared_days(tmp_path: Path) -> None:
    """Runs that begin on different days are compared on the days they share, with the same test as a study."""
    late = Plan(seed=3, bars=24 * 60)
    runs = made(
        tmp_path,
        Plan(seed=1, bars=24 * 60),
        Plan(seed=2, bars=24 * 60),
        late._replace(start_ns=late.start_ns + 10 * 24 * late.bar_ns),
    )
    found = choice(runs)
    table = np.stack(
        [daily(runs[0]).returns[10:], daily(runs[1]).returns[10:], daily(runs[2]).returns[:50]],
        axis=1,
    )

    assert found.days == 50
    assert found.overfitting == overfitting(table, blocks=12)
    assert all(one is not None and one.trials > 1.0 for one in found.evidence)
    assert any(one is not None and one.deflated < one.probabilistic for one in found.evidence)


def test_too_few_shared_days_judge_nothing(tmp_path: Path) -> None:
    """Runs of different years share no day; the table says so and has no line for it."""
    plan = Plan(bars=24 * 30)
    runs = made(tmp_path, plan, plan._replace(start_ns=plan.start_ns + 400 * 24 * plan.bar_ns))
    found = choice(runs)
    tables = {grid.key: grid for grid in grids(runs, found)}

    assert (found.days, found.overfitting) == (0, None)
    assert "share 0 days, fewer than 16" in tables["choice"].note
    assert "Deflated Sharpe" not in {row[0] for row in tables["figures"].rows}
    assert "do not cover the same time" in tables["figures"].note


def test_differences_are_found_wherever_they_are(tmp_path: Path) -> None:
    """Nested, missing on one side, of another type; what is equal is not listed."""
    first: dict[str, Any] = {"risk": {"max_weight": 0.3, "stop": 1}, "bar": "1h", "list": [1, 2]}
    second: dict[str, Any] = {"risk": {"max_weight": 0.5, "stop": 1}, "bar": "1h", "list": [1, 3], "new": {"a": True}}
    runs = made(tmp_path, Plan(params=first, bars=48), Plan(params=second, bars=48))

    assert differences(runs) == {
        "list": [[1, 2], [1, 3]],
        "new.a": [None, True],
        "risk.max_weight": [0.3, 0.5],
    }


def test_data_and_code_are_differences_too(tmp_path: Path) -> None:
    """Two runs of one configuration on other data or other code are not the same."""
    for name in ("a", "b"):
        write_run(tmp_path / name, Plan(bars=48))
    change_result(tmp_path / "b", data_hash="f00d", code_version="0.2.0")
    runs = load_runs([tmp_path / "a", tmp_path / "b"])

    assert set(differences(runs)) == {"data_hash", "code_version"}


def test_equal_runs_differ_in_nothing(tmp_path: Path) -> None:
    """The table says so; no figure is better; copies among themselves prove nothing."""
    runs = made(tmp_path, Plan(), Plan())
    tables = {grid.key: grid for grid in grids(runs, choice(runs))}
    found = choice(runs).overfitting

    assert tables["differences"].note == "The runs have the same parameters, data and code."
    assert tables["figures"].marks == ()
    assert found is not None
    assert found.probability == 1.0


def test_names_stay_apart(tmp_path: Path) -> None:
    """Folders of one name are told apart by their parents."""
    for parent in ("monday", "tuesday"):
        write_run(tmp_path / parent / "run", Plan(bars=48))
    runs = load_runs([tmp_path / "monday" / "run", tmp_path / "tuesday" / "run"])

    assert [run.name for run in runs] == ["monday/run", "tuesday/run"]


def test_the_page_overlays_the_curves(tmp_path: Path) -> None:
    """A line per run that ends at its return, the tables beside it, the same bytes again, hostile names as text."""
    name = "<b onclick=1>x"
    write_run(tmp_path / "plain", Plan(seed=1))
    write_run(tmp_path / name, Plan(seed=2))
    runs = load_runs([tmp_path / "plain", tmp_path / name])
    chosen = choice(runs)
    text = page(runs, chosen)
    found = Elements(text)
    lines = [trace for trace in figures(text)["plot-curves"]["data"] if "yaxis" not in trace]

    assert text == page(runs, chosen)
    assert found.rows["figures"][0] == ["", "plain", name]
    assert [trace["y"][-1] for trace in lines] == pytest.approx([1 + run.result["total_return"] for run in runs])
    assert "b" not in {tag for tag, _ in found.tags}
    assert lines[1]["name"] == "&lt;b onclick=1&gt;x"


def test_too_many_runs_are_refused(tmp_path: Path) -> None:
    """Before any file is read."""
    with pytest.raises(UsageError, match=f"at most {RUNS_MAX}"):
        load_runs([tmp_path / str(at) for at in range(RUNS_MAX + 1)])
