"""What no single key can tell: values that contradict each other, and values this version cannot honour yet."""

from typing import Final
from urllib.parse import urlsplit

from daemon.settings_schema import Settings
from daemon.settings_values import is_loopback

STREAMS_OF: Final = frozenset({"binance"})
"""Exchanges whose market stream this version decodes."""
MODELS: Final = frozenset({"lstm", "ewma", "zero"})
"""Built-in forecasters that exist; others are classes of the user's own."""


def contradictions(settings: Settings) -> list[str]:
    """Return one line for each pair of keys that cannot both hold."""
    lines = [
        f'universe: "{pair}" is not quoted in {settings.quote}; change quote, or remove the pair'
        for pair in settings.universe
        if pair.partition("/")[2] != settings.quote
    ]
    risk, forecast = settings.risk, settings.forecast
    assets = len(settings.universe)
    reachable, aim = risk.max_weight * assets, 1 - risk.min_cash
    if settings.optimizer.fully_invested and reachable < aim:
        lines.append(
            f"risk.max_weight = {risk.max_weight:g}: {assets} assets reach {reachable:g} of equity, but fully_invested "
            f"aims at {aim:g} (1 - risk.min_cash); raise max_weight, add assets or set optimizer.fully_invested = false"
        )
    if settings.optimizer.objective == "kelly" and not settings.optimizer.risk_tolerance > 0:
        lines.append("optimizer.risk_tolerance = 0: the fraction of objective kelly; set it above 0, such as 0.5")
    if settings.feed.grace_ms * 1_000_000 > settings.bar_ns / 2:
        lines.append(
            f"feed.grace_ms = {settings.feed.grace_ms}: more than half of bar = {settings.bar}; "
            "lower it or use longer bars"
        )
    if forecast.train_bars <= forecast.lookback + forecast.horizon_bars:
        lines.append(
            f"forecast.train_bars = {forecast.train_bars}: must exceed lookback + horizon_bars "
            f"({forecast.lookback + forecast.horizon_bars}); raise it"
        )
    if risk.exit_collar < risk.price_collar:
        lines.append(
            f"risk.exit_collar = {risk.exit_collar:g}: tighter than price_collar = {risk.price_collar:g}; "
            "orders that reduce exposure need at least the same room"
        )
    if settings.exchange.rest_url and not settings.exchange.ws_url and _is_local(settings.exchange.rest_url):
        lines.append(
            f"exchange.ws_url: empty while rest_url = {settings.exchange.rest_url}; prices would come from the real "
            "exchange: set it to the same machine's ws:// address"
        )
    if settings.exchange.sandbox and not (settings.exchange.ws_url and settings.exchange.ws_api_url):
        lines.append(
            "exchange.sandbox = true: needs ws_url and ws_api_url of the test network too, else its prices would be "
            "the real exchange's; set both"
        )
    return lines


def not_built(settings: Settings) -> list[str]:
    """Return one line for each value that this version accepts but could not honour: it must not start with a promise."""
    lines: list[str] = []
    model = settings.forecast.model
    if settings.exchange.id not in STREAMS_OF:
        lines.append(
            f'exchange.id = "{settings.exchange.id}": this version reads market streams of '
            f"{', '.join(sorted(STREAMS_OF))} only; choose that one"
        )
    if ":" not in model and model not in MODELS:
        lines.append(
            f'forecast.model = "{model}": not built yet; choose {", ".join(sorted(MODELS))} or a class of your own '
            '("package.module:Class")'
        )
    if settings.mqtt.url:
        lines.append("mqtt.url: this version has no MQTT outlet yet; leave it empty")
    return lines


def _is_local(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")
