"""An evaluation as one JSON document (DESIGN A8): the same inputs give the same bytes, it holds no time of day."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from daemon.backtest.data.files import replacing
from daemon.backtest.evaluate import Field, Judged, decided
from daemon.backtest.tune_trial import FoldRun
from daemon.outlets.times import jsonable
from daemon.settings import redacted
from strategies.skill import LEVELS
from strategies.training.evaluate import FoldForecast
from strategies.training.evaluate_scores import KINDS, Sample, Scores, joined, of_asset, score

RESULT_FILE: Final = "evaluation.json"
Tree = dict[str, Any]


class Figures(msgspec.Struct, frozen=True):
    """A model's figures: all pairs and windows together, each pair, each window."""

    sample: Sample
    overall: Scores
    assets: tuple[Scores, ...]
    folds: tuple[Scores, ...]


def figures_of(field: Field, judged: Judged) -> Figures:
    """Score a model."""
    horizon = field.ground.horizon_bars
    whole = joined(judged.forecasts, horizon)
    return Figures(
        sample=whole,
        overall=score(whole),
        assets=tuple(score(of_asset(whole, at)) for at in range(len(field.panel.symbols))),
        folds=tuple(score(joined([one], horizon)) for one in judged.forecasts),
    )


def result_of(field: Field, judged: Sequence[Judged], figures: Sequence[Figures], held: Sequence[FoldRun]) -> Tree:
    """Return everything as JSON values; ``overall``, ``assets`` and ``folds`` at the top are those of the first model."""
    ground, close_ns = field.ground, field.ground.history.close_ns
    models = {one.asked.name: _model(field, one, found) for one, found in zip(judged, figures, strict=True)}
    first = judged[0].asked.name
    tree: Tree = {
        "schema": 1,
        "model": first,
        "overall": models[first]["overall"],
        "assets": models[first]["assets"],
        "folds": models[first]["folds"],
        "models": models,
        "buy_and_hold": decided(held, ground.seed),
        "start_ns": int(close_ns[0]) - ground.history.bar_ns,
        "end_ns": int(close_ns[-1]),
        "symbols": list(field.panel.symbols),
        "left_out": list(field.left_out),
        "bar": field.settings.bar,
        "bars": int(close_ns.size),
        "lookback": ground.lookback,
        "horizon_bars": ground.horizon_bars,
        "embargo_bars": field.embargo,
        "seed": ground.seed,
        "hyper": ground.hyper,
        "data_hash": field.panel.digest,
        "code_version": version("ballast"),
        "params": redacted(field.settings),
    }
    plain: Tree = jsonable(tree)
    return plain


def write_result(folder: Path, result: Tree) -> Path:
    """Write the document into a folder, whole or not at all. Raises ConfigError when it cannot be written."""
    path = folder / RESULT_FILE
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    return path


def flat(scores: Scores) -> Tree:
    """Return figures with a key per level of coverage: ``coverage_90``, ``raw_coverage_90``, ``adaptive_coverage_90``."""
    tree: Tree = msgspec.structs.asdict(scores)
    for kind in KINDS:
        shares = tree.pop(kind)
        tree |= {f"{kind}_{100 * level:g}": share for level, share in zip(LEVELS, shares, strict=True)}
    return tree


def _model(field: Field, judged: Judged, figures: Figures) -> Tree:
    rows = zip(judged.forecasts, figures.folds, judged.runs or (None,) * len(judged.forecasts), strict=True)
    return {
        "overall": flat(figures.overall),
        "assets": dict(zip(field.panel.symbols, map(flat, figures.assets), strict=True)),
        "folds": [_fold(field, *row) for row in rows],
        "decisions": decided(judged.runs, field.ground.seed),
        "why_no_decisions": judged.why_not,
    }


def _fold(field: Field, forecast: FoldForecast, scores: Scores, run: FoldRun | None) -> Tree:
    fold, history = forecast.fold, field.ground.history
    known = fold.train_last + field.ground.horizon_bars
    widths = {f"{level:g}": float(width) for level, width in zip(LEVELS, forecast.split, strict=True)}
    return {
        "fold": fold.number,
        "model": forecast.model,
        "train_start_ns": int(history.close_ns[fold.train_first]) - history.bar_ns,
        "train_end_ns": int(history.close_ns[known - 1]),
        "train_bars": known - fold.train_first,
        "test_start_ns": int(history.close_ns[fold.first]) - history.bar_ns,
        "test_end_ns": int(history.close_ns[fold.last - 1]),
        "test_bars": fold.last - fold.first,
        "calibrated_on": forecast.calibrated_on,
        "widths": widths,
        **flat(scores),
        "decisions": None if run is None else {key: value for key, value in _plain(run).items() if key != "fold"},
    }


def _plain(run: FoldRun) -> Tree:
    tree: Tree = msgspec.to_builtins(run)
    return tree
