"""The page in a real browser without a network: everything is drawn, nothing is asked for, nothing complains."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from daemon.backtest.report.compare import choice, load_runs, write_comparison
from daemon.backtest.report.html import write_report
from tests.absent import absent
from tests.backtest.report.browser import REMEDY, Browser, binary, chromium
from tests.backtest.report.kit import Plan, write_run
from tests.backtest.report.pages import HOSTILE

READY = "document.documentElement?.dataset.drawn !== undefined"
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
DESK = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's Chromium; the tests are skipped without one, and fail there under CI."""
    path = binary()
    if path is None:
        absent(REMEDY)
    with chromium(path) as one:
        yield one


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of 120 days."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, Plan(bars=24 * 120))
    return write_report(folder)


def dress(browser: Browser, scheme: str, screen: Mapping[str, object]) -> None:
    """Choose the reader's colours and screen."""
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Emulation.setDeviceMetricsOverride", **screen)


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_is_drawn(browser: Browser, report: Path, scheme: str, screen: Mapping[str, object]) -> None:
    """Each place holds lines, bars or areas; no request leaves, no error appears, nothing is wider than the screen."""
    dress(browser, scheme, screen)
    look = browser.visit(report, ready=READY)

    assert look.requests == (report.resolve().as_uri(),)
    assert look.errors == ()
    assert browser.evaluate("document.documentElement.dataset.drawn") == "9"
    shapes = browser.evaluate(
        "[...document.querySelectorAll('.plot')].map(one => one.querySelectorAll("
        "'.scatterlayer .js-line, .scatterlayer .js-fill, .barlayer .point path').length)"
    )
    assert len(shapes) == 9
    assert min(shapes) > 0
    # Not innerWidth: a phone widens its view to whatever does not fit.
    assert browser.evaluate("document.documentElement.scrollWidth") <= int(str(screen["width"]))
    back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")


def test_colours_follow_the_reader(browser: Browser, report: Path) -> None:
    """A change from light to dark, as at dusk, redraws the plots with readable text."""
    dress(browser, "light", DESK)
    browser.visit(report, ready=READY)
    fill = "getComputedStyle(document.querySelector('#plot-equity .xtick text')).fill"
    light = browser.evaluate(fill)
    dress(browser, "dark", DESK)
    browser.wait("document.documentElement.dataset.scheme === 'dark'")

    assert light == "rgb(27, 31, 36)"
    assert browser.evaluate(fill) == "rgb(230, 233, 237)"


def test_plotly_sends_nothing_anywhere(browser: Browser, report: Path) -> None:
    """No button of the plots leads to another place, and the page may not open a connection even if it tries."""
    dress(browser, "light", DESK)
    browser.visit(report, ready=READY)
    buttons = browser.evaluate("[...document.querySelectorAll('.modebar-btn')].map(one => one.dataset.title)")
    picture = browser.evaluate("Plotly.toImage('plot-equity', {width: 300, height: 200}).then(one => one.slice(0, 22))")
    tried = browser.evaluate("fetch('http://127.0.0.1:9/').then(() => 'went', () => 'refused')")

    assert set(buttons) == {"Zoom", "Pan", "Reset axes", "Download plot as a PNG"}
    assert picture == "data:image/png;base64,"
    assert tried == "refused"
    assert any("Content Security Policy" in error for error in browser.look().errors)


def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    """Names that are scripts, elements and links run nothing, load nothing and link to nothing."""
    write_run(tmp_path, Plan(pairs=HOSTILE, bars=24 * 40))
    dress(browser, "light", DESK)
    look = browser.visit(write_report(tmp_path), ready=READY)

    assert len(look.requests) == 1
    assert look.errors == ()
    assert browser.evaluate("document.title").startswith("Backtest")
    assert browser.evaluate("[...document.querySelectorAll('a, svg a')].every(one => one.hash)") is True
    legend = browser.evaluate("[...document.querySelectorAll('#plot-weights .legendtext')].map(one => one.textContent)")
    assert HOSTILE[2] in legend
    assert browser.evaluate("document.querySelectorAll('img').length") == 0


def test_a_comparison_is_drawn(browser: Browser, tmp_path: Path) -> None:
    """Several runs in one page, the same promises."""
    for at in range(3):
        write_run(tmp_path / f"run{at}", Plan(seed=at))
    runs = load_runs([tmp_path / f"run{at}" for at in range(3)])
    page = write_comparison(runs, choice(runs), tmp_path / "comparison.html")
    dress(browser, "dark", DESK)
    look = browser.visit(page, ready=READY)

    assert look.requests == (page.resolve().as_uri(),)
    assert look.errors == ()
    assert browser.evaluate("document.querySelectorAll('#plot-curves .scatterlayer .js-line').length") == 6
