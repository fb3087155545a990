"""A report as one JSON document, for programs: what `ballast report --json` prints."""

from collections.abc import Sequence
from typing import Any

import msgspec

from daemon.backtest.report.compare import Choice, differences
from daemon.backtest.report.folder import Run
from daemon.backtest.report.stress import Period, stress
from daemon.backtest.report.summary import profits
from daemon.backtest.report.trust import trust
from daemon.outlets.times import iso, jsonable

Tree = dict[str, Any]


def of_run(run: Run) -> Tree:
    """Return one run: its result, the statistics on top of it and the stress table; ratios numbers, times ISO."""
    known, shocks = trust(run), stress(run)
    paths = None if known.paths is None else {**msgspec.structs.asdict(known.paths)}
    if paths is not None:
        del paths["fan"]  # drawn, not read: a row per day
    document: Tree = {
        "name": run.name,
        "folder": str(run.folder),
        "result": dict(run.result),
        "profit": dict(zip(run.pairs, profits(run).tolist(), strict=True)),
        "evidence": known.evidence,
        "deflated_sharpe": {str(tries): value for tries, value in known.deflated},
        "intervals": known.intervals,
        "paths": paths,
        "stress": {
            "shocks": [one._asdict() for one in shocks.shocks],
            "worst_days": [_period(one) for one in shocks.days],
            "worst_weeks": [_period(one) for one in shocks.weeks],
            "assumptions": list(shocks.assumptions),
        },
    }
    plain: Tree = jsonable(document)
    return plain


def of_runs(runs: Sequence[Run], chosen: Choice) -> Tree:
    """Return several runs: results, what differs, and what the days they share say about choosing among them."""
    document: Tree = {
        "runs": [
            {"name": run.name, "folder": str(run.folder), "result": dict(run.result), "evidence": found}
            for run, found in zip(runs, chosen.evidence, strict=True)
        ],
        "differences": differences(runs),
        "shared_days": chosen.days,
        "overfitting": chosen.overfitting,
        "note": chosen.note,
    }
    plain: Tree = jsonable(document)
    return plain


def _period(one: Period) -> Tree:
    return {
        "first": iso(one.first_ns),
        "last": iso(one.last_ns),
        "change": one.change,
        "equal_weight": one.market,
        "exposure": one.exposure,
    }
