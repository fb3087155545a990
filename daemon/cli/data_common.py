"""What the ``data`` commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from daemon.backtest.data.asking import Asker
    from daemon.settings import Settings

Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The folder; <state_dir>/data/<exchange> when left out.")
]
Pairs = Annotated[
    list[str] | None, typer.Argument(metavar="[PAIR]...", help="For example BTC/USDT; all when left out.")
]
Timeframe = Annotated[str, typer.Option("--timeframe", "-t", help="For example 1h; all when left out.")]
BarTimeframe = Annotated[str, typer.Option("--timeframe", "-t", help="`bar` of the configuration when left out.")]


def pairs_of(listed: list[str] | None, named: list[str] | None) -> list[str]:
    """Return pairs given as arguments and as options, the latter with commas too, each once."""
    words = [*(listed or []), *(part for text in named or [] for part in text.replace(",", " ").split())]
    return list(dict.fromkeys(words))


def asker_of(settings: "Settings") -> "Asker":
    """Return who asks the exchange, with the pauses that the daemon and other commands were told of."""
    from daemon.backtest.data.asking import Asker
    from daemon.edge.clock import Clock
    from daemon.service.venues import exchange_of, hasty

    return Asker(exchange_of(settings), hasty(settings, Clock()))


def now_ms() -> int:
    """Return the time, ms UTC."""
    from daemon.edge.clock import Clock

    return Clock().now_ns() // 1_000_000
