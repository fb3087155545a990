"""The page: its numbers are the files' numbers, it needs nothing from outside, and text of a file stays text."""

import html
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from daemon.backtest.report.folder import Run, load_run
from daemon.backtest.report.html import FILLS_MAX, embedded, page, write_report
from daemon.backtest.report.plots import STACKED_MAX
from daemon.backtest.report.series import POINTS_MAX
from daemon.domain.errors import ConfigError
from tests.backtest.report.kit import PAIRS, Books, Plan, change_column, change_result, write_run
from tests.backtest.report.pages import HOSTILE, Elements, figures


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Books, Run, str]:
    """A run of 90 days and its page."""
    folder = tmp_path_factory.mktemp("run")
    books = write_run(folder)
    return books, load_run(folder), write_report(folder).read_text(encoding="utf-8")


def test_tables_hold_the_numbers_of_the_files(made: tuple[Books, Run, str]) -> None:
    """Cells are the result's figures, the benchmarks in columns beside the run."""
    _, run, text = made
    found = Elements(text)
    performance = found.table("performance")

    assert found.rows["performance"][0][1:] == ["Run", "Equal weight", "Buy and hold", "Cash"]
    for label, key in (("Total profit", "total_return"), ("CAGR", "cagr"), ("Max drawdown", "max_drawdown")):
        sources = [run.result, *(run.result["benchmarks"][name] for name in ("equal_weight", "buy_and_hold", "cash"))]
        assert performance[label] == [f"{100 * one[key]:,.2f} %".replace("-0.00", "0.00") for one in sources]
    assert performance["Sharpe"][0] == f"{run.result['sharpe']:.2f}"
    assert performance["Final balance"][0] == f"{run.equity.equity[-1]:,.2f}"
    portfolio = found.table("portfolio")
    assert portfolio["Fees"] == [f"{run.fills.fee.sum():,.2f}"]
    assert portfolio["Fills"] == [str(len(run.fills))]
    pairs = found.table("pairs")
    assert set(PAIRS) < set(pairs)
    assert pairs["BTC/USDT"][1] == f"{100 * run.held[-1, 0]:.2f} %"


def test_the_first_table_is_the_portfolio(made: tuple[Books, Run, str]) -> None:
    """Weights, exposure, turnover and cost come before profit."""
    order = list(Elements(made[2]).rows)

    assert order.index("portfolio") < order.index("pairs") < order.index("performance") < order.index("equity")


def test_plots_hold_the_numbers_of_the_files(made: tuple[Books, Run, str]) -> None:
    """Curves end where the files end; bars are the attribution."""
    _, run, text = made
    drawn = figures(text)
    curves = {trace["name"]: trace for trace in drawn["plot-equity"]["data"] if "yaxis" not in trace}
    assert run.benchmarks is not None
    assert curves["Run"]["y"][-1] == pytest.approx(run.equity.equity[-1], rel=1e-8)
    assert curves["Run"]["x"][-1] == run.equity.times[-1] // 1_000_000
    assert curves["Equal weight"]["y"][-1] == pytest.approx(run.benchmarks.column("equal_weight")[-1], rel=1e-8)
    fall = next(one for one in drawn["plot-equity"]["data"] if one["name"] == "Run" and one.get("yaxis") == "y2")
    assert min(fall["y"]) == pytest.approx(run.result["max_drawdown"], rel=1e-4)

    held = {one["name"]: one["y"] for one in drawn["plot-weights"]["data"] if one["stackgroup"] == "held"}
    target = {one["name"]: one["y"] for one in drawn["plot-weights"]["data"] if one["stackgroup"] == "target"}
    for at, pair in enumerate(PAIRS):
        assert held[pair] == pytest.approx(run.held[:, at].tolist(), rel=1e-4)
        assert target[pair] == pytest.approx(run.decisions.target[:, at].tolist(), rel=1e-4)

    (bars,) = drawn["plot-attribution"]["data"]
    assert run.attribution is not None
    assert dict(zip(bars["y"], bars["x"], strict=True)) == pytest.approx(
        dict(zip(PAIRS, run.attribution.values[-1].tolist(), strict=True))
    )
    costs = {one["name"]: one for one in drawn["plot-costs"]["data"]}
    assert costs["Fees so far"]["y"][-1] == pytest.approx(float(run.fills.fee.sum()))
    assert sum(costs["Turnover, day"]["y"]) == pytest.approx(run.decisions.turnover.sum(), rel=1e-4)


def test_every_plot_is_one_that_plotly_knows(made: tuple[Books, Run, str]) -> None:
    """Plotly's own validators accept every property; the page has a place for each plot."""
    found = Elements(made[2])
    places = {attributes.get("id") for tag, attributes in found.tags if tag == "div"}
    drawn = figures(made[2])

    assert len(drawn) == 9
    for key, one in drawn.items():
        go.Figure(data=one["data"], layout=one["layout"])
        assert key in places


def test_months_multiply_to_the_total(made: tuple[Books, Run, str]) -> None:
    """The table of months is of the same curve."""
    _, run, text = made
    (year,) = [row for row in Elements(text).rows["months"] if row[0] == "2024"]
    months = [float(cell) for cell in year[1:13] if cell]

    assert len(months) == 3
    assert np.prod([1 + one / 100 for one in months]) - 1 == pytest.approx(run.result["total_return"], abs=2e-3)
    assert float(year[13]) == pytest.approx(100 * run.result["total_return"], abs=0.051)


def test_nothing_is_loaded_from_outside(made: tuple[Books, Run, str]) -> None:
    """No element names a resource, no style imports one, and the policy forbids what a script might try."""
    found = Elements(made[2])
    loading = {"link", "iframe", "frame", "img", "object", "embed", "audio", "video", "source", "base", "form"}

    assert [tag for tag, _ in found.tags if tag in loading] == []
    assert all("src" not in attributes for _, attributes in found.tags)
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in found.tags)
    style = made[2].partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy


def test_plotly_is_in_it_once(made: tuple[Books, Run, str]) -> None:
    """The library is most of the page, and there is one of it."""
    scripts = [attributes for tag, attributes in Elements(made[2]).tags if tag == "script"]

    assert made[2].count("* plotly.js v") == 1
    assert len(scripts) == 3


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    """In another folder, at another time, with another timing file."""
    pages = []
    for name in ("one", "other/two"):
        write_run(tmp_path / name)
        (tmp_path / name / "timing.json").write_text(f'{{"seconds": {len(name)}}}', encoding="utf-8")
        pages.append(write_report(tmp_path / name).read_bytes())

    assert pages[0] == pages[1]


def test_another_run_gives_another_page(tmp_path: Path) -> None:
    """The page follows its inputs."""
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", Plan(seed=2))

    assert write_report(tmp_path / "one").read_bytes() != write_report(tmp_path / "two").read_bytes()


def test_names_of_pairs_stay_text(tmp_path: Path) -> None:
    """Hostile names make no element, no attribute and no end of a script; they are shown as they are."""
    write_run(tmp_path, Plan(pairs=HOSTILE, bars=24 * 40))
    change_result(
        tmp_path, start="<script>1</script>", config_hash="<b>bold</b>", params={"<i>": "</pre><script>x</script>"}
    )
    text = write_report(tmp_path).read_text(encoding="utf-8")
    found = Elements(text)

    assert len([tag for tag, _ in found.tags if tag == "script"]) == 3
    assert {tag for tag, _ in found.tags} & {"img", "b2", "i"} == set()
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert HOSTILE[1] in found.table("pairs")
    assert "\x1b" not in text
    assert "\u202e" not in text
    names = {trace["name"] for trace in figures(text)["plot-weights"]["data"]}
    assert all("<" not in name and ">" not in name for name in names)
    assert html.escape(HOSTILE[2], quote=False) in names


def test_a_script_element_cannot_be_ended_from_inside() -> None:
    """JSON in the page holds no tag, and reads back the same."""
    value = {"</script>": ["<!--", "&", "\u2028"]}

    assert not set("<>&\u2028") & set(embedded(value))
    assert json.loads(embedded(value)) == value


def test_long_lists_say_what_is_left_out(tmp_path: Path) -> None:
    """The last fills are listed; more pairs than colours share one area; long curves keep their extremes."""
    pairs = tuple(f"C{at}/USDT" for at in range(STACKED_MAX + 3))
    books = write_run(tmp_path, Plan(pairs=pairs, bars=24 * 130))
    run = load_run(tmp_path)
    text = page(run)
    found = Elements(text)

    assert books.fills > FILLS_MAX
    assert len(found.rows["fills"]) == 1 + FILLS_MAX
    assert found.rows["fills"][-1][-1] == run.fills.order_id[len(run.fills) - 1]
    left = books.fills - FILLS_MAX
    note = f"The last {FILLS_MAX} of {books.fills:,} fills; {left:,} earlier ones are left out"
    assert note in "".join(found.texts)
    drawn = figures(text)
    assert "3 others" in {trace["name"] for trace in drawn["plot-weights"]["data"]}
    line = drawn["plot-equity"]["data"][0]
    assert len(line["x"]) <= POINTS_MAX < len(run.equity.times)
    assert max(line["y"]) == pytest.approx(run.equity.equity.max(), rel=1e-8)
    assert min(line["y"]) == pytest.approx(run.equity.equity.min(), rel=1e-8)


def test_a_run_without_anything_is_a_page(tmp_path: Path) -> None:
    """No decision, no fill, no forecast, two bars, no optional file: every missing plot says why."""
    write_run(tmp_path, Plan(bars=2, optional=False))
    change_result(tmp_path, forecast=None, benchmarks=None, params=None)
    text = write_report(tmp_path).read_text(encoding="utf-8")

    assert set(figures(text)) == {"plot-equity", "plot-costs"}
    for words in (
        "No decision was made.",
        "holds no attribution.parquet",
        "No forecast gave an interval.",
        "0 fills.",
        "no more than the shortest window",
        "nothing is resampled",
    ):
        assert words in text


def test_a_run_that_lost_everything_is_a_page(tmp_path: Path) -> None:
    """Equity of zero from the middle on: returns end at −100 %, nothing is divided by it."""
    books = write_run(tmp_path, Plan(bars=24 * 60))
    curve = np.where(np.arange(len(books.equity)) < 700, books.equity, 0.0)
    change_column(tmp_path / "equity.parquet", "equity", curve)
    change_result(tmp_path, final_equity="0.00", total_return=-1.0)
    drawn = figures(write_report(tmp_path).read_text(encoding="utf-8"))

    assert drawn["plot-equity"]["data"][0]["y"][-1] == 0.0
    assert drawn["plot-fan"]["data"][-1]["y"][-1] == 0.0


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file is in the way of its folder."""
    write_run(tmp_path / "run", Plan(bars=48))
    (tmp_path / "file").write_text("", encoding="utf-8")

    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(tmp_path / "run", tmp_path / "file" / "report.html")
