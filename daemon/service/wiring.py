"""From the configuration to what each part is told: the only place where names of settings meet names of parts."""

import hashlib
from collections.abc import Sequence
from decimal import Decimal

from daemon.core.config import EngineConfig
from daemon.domain.errors import ConfigError
from daemon.domain.events import Restored
from daemon.domain.market import NS_PER_MS
from daemon.domain.orders import Tif
from daemon.edge.ledger import LedgerConfig
from daemon.edge.worker_wire import WorkerConfig
from daemon.outlets.listener import Tokens, make_tokens
from daemon.service.place import ledger_place
from daemon.settings import ExchangeKeys, Settings, config_hash
from risk.limits import Limits
from strategies.params import ForecastParams, OptimizerParams, StrategySetup

BPS = Decimal("0.0001")
DECISION_DEADLINE_SHARE = 2
"""A decision must be back within this part of a bar."""
DEADLINE_MS_MAX = 10_000


def account_of(keys: ExchangeKeys | None) -> str:
    """Return what names the account without giving its key away; "" in paper."""
    if keys is None:
        return ""
    return hashlib.sha256(keys.key.get_secret_value().encode()).hexdigest()[:16]


def limits(settings: Settings) -> Limits:
    """Return the limits of gate, planner and stops."""
    risk, execution = settings.risk, settings.execution
    return Limits(
        max_weight=risk.max_weight,
        max_gross=risk.max_gross,
        min_cash=risk.min_cash,
        max_order_notional=risk.max_order_notional,
        max_orders_per_minute=risk.max_orders_per_minute,
        max_repeats=risk.max_repeats,
        price_collar=risk.price_collar,
        exit_collar=risk.exit_collar,
        stop_loss=risk.stop_loss,
        trailing_stop=risk.trailing_stop,
        volatility_stop=risk.volatility_stop,
        stop_cooldown_ns=risk.stop_cooldown_ns,
        max_drawdown=risk.max_drawdown,
        max_daily_loss=risk.max_daily_loss,
        cvar_limit=risk.cvar_limit,
        max_age_ms=settings.feed.max_age_ms,
        order=tif(settings),
        max_slippage_bps=execution.max_slippage_bps,
        fee_rate=float(fee_rate(settings)),
    )


def tif(settings: Settings) -> Tif:
    """Return how orders are sent: immediate-or-cancel, or resting at the touch."""
    return Tif.IOC if settings.execution.order == "ioc" else Tif.GTC


def fee_rate(settings: Settings) -> Decimal:
    """Return the taker's fee as a fraction of notional, exact."""
    return Decimal(repr(settings.paper.fee_bps)) * BPS


def engine_config(settings: Settings, account: str) -> EngineConfig:
    """Return what the engine is told. Raises ConfigError when the limits contradict each other."""
    problems = limits(settings).validate()
    if problems:
        raise ConfigError("\n".join(f"risk.{problem}" for problem in problems))
    deadline_ns = min(settings.bar_ns // DECISION_DEADLINE_SHARE, DEADLINE_MS_MAX * NS_PER_MS)
    return EngineConfig(
        instance=settings.instance,
        account=account,
        mode=settings.mode,
        universe=settings.universe,
        quote=settings.quote,
        bar_ns=settings.bar_ns,
        grace_ns=settings.feed.grace_ms * NS_PER_MS,
        max_age_ns=settings.feed.max_age_ms * NS_PER_MS,
        backfill_bars=max(settings.feed.backfill_bars, settings.forecast.lookback + 1),
        lookback=settings.forecast.lookback,
        rebalance_every=settings.optimizer.rebalance_every,
        turnover_max=settings.optimizer.turnover_max,
        turnover_max_day=settings.optimizer.turnover_max_day,
        cost_bps=settings.optimizer.cost_bps,
        tif=tif(settings),
        limits=limits(settings),
        fee_rate=fee_rate(settings),
        max_model_age_ns=settings.forecast.max_model_age_ns,
        decision_deadline_ns=deadline_ns,
    )


def leaving_in(restored: Restored, universe: Sequence[str]) -> tuple[str, ...]:
    """Return the symbols outside the universe that are held, or of which an order is not done: both must be followed up."""
    held = (symbol for symbol, _ in restored.positions)
    open_still = (order.intent.symbol for order in restored.orders)
    return tuple(symbol for symbol in dict.fromkeys((*held, *open_still)) if symbol not in universe)


def worker_config(settings: Settings) -> WorkerConfig:
    """Return what the worker process is started with."""
    forecast, optimizer, risk = settings.forecast, settings.optimizer, settings.risk
    return WorkerConfig(
        setup=StrategySetup(
            forecast=ForecastParams(
                model=forecast.model,
                lookback=forecast.lookback,
                horizon_bars=forecast.horizon_bars,
                shrink=forecast.shrink,
                retrain_every_ns=forecast.retrain_every_ns,
                min_skill=forecast.min_skill,
                max_model_age_ns=forecast.max_model_age_ns,
            ),
            optimizer=OptimizerParams(
                objective=optimizer.objective,
                risk_tolerance=optimizer.risk_tolerance,
                covariance=optimizer.covariance,
                fully_invested=optimizer.fully_invested,
                cost_bps=optimizer.cost_bps,
                turnover_max=optimizer.turnover_max,
                max_weight=risk.max_weight,
                max_gross=risk.max_gross,
                min_cash=risk.min_cash,
                cvar_limit=risk.cvar_limit,
            ),
            symbols=settings.universe,
            bar_ns=settings.bar_ns,
            models_dir=str(settings.state_path / "models"),
        ),
        strategy=settings.strategy,
        params=dict(settings.strategy_params),
        folders=settings.folders,
        buffer_bars=max(settings.feed.backfill_bars, forecast.lookback + 1),
    )


def ledger_config(settings: Settings, account: str, version: str) -> LedgerConfig:
    """Return where the ledger lies and whose it is."""
    return LedgerConfig(
        folder=settings.mode_path,
        instance=settings.instance,
        mode=settings.mode,
        venue=settings.exchange.id,
        quote=settings.quote,
        account=account,
        config_hash=config_hash(settings),
        code_version=version,
        at=ledger_place(settings),
    )


def tokens_of(settings: Settings, *, keep: bool = True) -> Tokens:
    """Return the API's tokens by scope: read from their files, or made (and with ``keep`` written) where none is configured."""
    api = settings.api
    files = {"read": api.token_file, "control": api.control_token_file, "kill": api.kill_token_file}
    return make_tokens(settings.state_path, files, keep=keep)
