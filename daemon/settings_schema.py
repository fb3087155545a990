"""The configuration's shape (DESIGN A4): every key, its default, its absolute limits and what it means.

Values are strict (a number in quotes is an error), unknown keys are errors, models are frozen. The limits here are the
absolute ceilings: no file and no variable can lift them.
"""

import re
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr, field_validator

from daemon.settings_values import (
    Duration,
    DurationOrNever,
    HttpUrl,
    Listen,
    ListenOrOff,
    Params,
    WsUrl,
    as_tuple,
    bar_ns,
    duration_ns,
    exchange_ids,
    parse_capital,
)
from strategies.params import Objective

UNIVERSE_MAX = 500
"""Most pairs one instance trades: the websocket and optimiser sizes that are tested."""

_PAIR = re.compile(r"[A-Z0-9]{1,20}/[A-Z0-9]{1,20}")
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_MODELS = ("lstm", "gru", "transformer", "arima", "ewma", "zero")


class Section(BaseModel):
    """Base of every table: frozen, strict, finite, no unknown key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Portfolio(Section):
    """Whose money it is."""

    capital: str = Field(default="all", description='"all", an amount of quote currency ("25000") or a share ("50%")')
    adopt: Literal["none", "universe"] = Field(
        default="none", description="whether assets already on the account become ours"
    )

    @field_validator("capital")
    @classmethod
    def _capital(cls, value: str) -> str:
        parse_capital(value)
        return value

    @property
    def capital_amount(self) -> Decimal | None:
        """Return the amount of quote currency, or None when it is a share or everything."""
        return parse_capital(self.capital)[0]

    @property
    def capital_share(self) -> float | None:
        """Return the share (0, 1] of the account, or None when it is an amount or everything."""
        return parse_capital(self.capital)[1]


class Exchange(Section):
    """The venue and how to reach it. Keys come from the environment or from files, never from this table."""

    id: str = Field(default="binance", description="a ccxt exchange id")
    sandbox: bool = Field(default=False, description="the exchange's own test network")
    rest_url: HttpUrl = Field(default="", description="override of the base; plain http only on loopback")
    ws_url: WsUrl = Field(default="", description="base of the streams; plain ws only on loopback")
    ws_api_url: WsUrl = Field(default="", description="base of the websocket API; defaults to ws_url when that is set")
    api_key_file: str = Field(default="", description="file holding the key (systemd credential, Docker secret)")
    api_secret_file: str = Field(default="", description="file holding the secret")
    api_key: SecretStr = Field(default=SecretStr(""), description="BALLAST_EXCHANGE__API_KEY only")
    api_secret: SecretStr = Field(default=SecretStr(""), description="BALLAST_EXCHANGE__API_SECRET only")

    @field_validator("id")
    @classmethod
    def _id(cls, value: str) -> str:
        if value not in exchange_ids():
            raise ValueError("ccxt knows no exchange of this id; see https://docs.ccxt.com for the list")
        return value

    @property
    def ws_api_base(self) -> str:
        """Return the base of the websocket API, "" for the venue's own."""
        return self.ws_api_url or self.ws_url


class Feed(Section):
    """Market data."""

    backfill_bars: int = Field(
        default=2000, ge=0, le=100_000, description="history fetched at start and stitched to the stream"
    )
    max_age_ms: int = Field(default=3000, ge=50, le=600_000, description="newest frame of any kind for a symbol")
    grace_ms: int = Field(default=500, ge=0, le=60_000, description="how long a bar waits for late trades")


class ForecastTable(Section):
    """The model and its training."""

    model: str = Field(
        default="lstm", description='lstm | gru | transformer | arima | ewma | zero | "package.module:Class"'
    )
    lookback: int = Field(default=60, ge=2, le=5000)
    horizon_bars: int = Field(
        default=24, ge=1, le=5000, description="mean, covariance, labels, skill and embargo refer to it"
    )
    shrink: Literal["skill", "none"] = Field(default="skill", description="none is for tests and demonstrations")
    train_bars: int = Field(default=20_000, ge=50, le=5_000_000, description="history that training fetches for itself")
    train_seconds_max: int = Field(default=900, ge=1, le=86_400, description="keeps the best model so far")
    retrain_every: DurationOrNever = Field(default="24h", description='"" = never, and no age check')
    min_skill: float = Field(default=0.0, ge=-1, le=1, description="promotion gate: out-of-sample skill against naive")
    max_model_age: Duration = Field(default="7d", description="older: its mean counts as zero")

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        if value not in _MODELS and not _CLASS.fullmatch(value):
            raise ValueError(f'must be one of {" ".join(_MODELS)} or "package.module:Class"')
        return value

    @property
    def retrain_every_ns(self) -> int:
        """Return the time between trainings in ns; 0 means never."""
        return duration_ns(self.retrain_every)

    @property
    def max_model_age_ns(self) -> int:
        """Return the age in ns beyond which a model's mean counts as zero; 0 (no check) when it is never retrained."""
        return duration_ns(self.max_model_age) if self.retrain_every else 0


class Optimizer(Section):
    """The convex problem."""

    objective: Objective = "mean_variance"
    risk_tolerance: float = Field(default=0.25, ge=0, le=10, description="1 = full Kelly")
    covariance: Literal["sample", "ewma", "ledoit_wolf", "factor"] = "ledoit_wolf"
    fully_invested: bool = Field(default=False, description="true: soft aim of sum(w) = 1 - min_cash")
    rebalance_every: int = Field(default=1, ge=1, le=100_000, description="bars between decisions")
    cost_bps: float = Field(default=10.0, ge=0, le=1000, description="one way, fee + half spread, once per horizon")
    turnover_max: float = Field(default=0.5, gt=0, le=2, description="a decision's, of equity; never limits reductions")
    turnover_max_day: float = Field(default=2.0, gt=0, le=1000)


class Execution(Section):
    """How orders are priced."""

    order: Literal["ioc", "limit"] = Field(
        default="ioc", description="ioc: limit at touch ± slippage; limit: resting at touch"
    )
    max_slippage_bps: float = Field(default=20.0, gt=0, le=500)


class Risk(Section):
    """Limits. Fractions are of equity; 0 switches a stop off."""

    max_weight: float = Field(default=0.30, gt=0, le=1)
    max_gross: float = Field(default=1.0, gt=0, le=1, description="spot only: no leverage")
    min_cash: float = Field(default=0.02, ge=0, lt=1)
    max_order_notional: float = Field(
        default=0.10, gt=0, le=1, description="a larger difference is worked in slices over time"
    )
    max_orders_per_minute: int = Field(default=0, ge=0, le=6000, description="0 = 80 % of the venue's published limits")
    max_repeats: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="orders executed on one side of a symbol within 5 minutes, none on the other: decisions stop "
        "until `resume`; exits never count; 0 = off",
    )
    price_collar: float = Field(default=0.01, gt=0, le=0.2, description="against an independent reference")
    exit_collar: float = Field(default=0.05, gt=0, le=0.5, description="the same for orders that reduce exposure")
    stop_loss: float = Field(default=0.08, ge=0, lt=1, description="per position, from average entry")
    trailing_stop: float = Field(default=0.12, ge=0, lt=1)
    volatility_stop: float = Field(default=0.0, ge=0, le=100, description="multiples of ATR over 14 one-hour bars")
    stop_cooldown: Duration = Field(default="24h", description="a stopped symbol's target stays 0 until then")
    max_drawdown: float = Field(
        default=0.20, gt=0, le=1, description="from peak unit value: flatten and halt (latched)"
    )
    max_daily_loss: float = Field(default=0.05, gt=0, le=1, description="reduce-only until the next UTC day")
    cvar_limit: float = Field(default=0.10, gt=0, le=1, description="one-day 95 % CVaR, by scaling down")

    @property
    def stop_cooldown_ns(self) -> int:
        """Return the cool-down after a stop in ns."""
        return duration_ns(self.stop_cooldown)


class Paper(Section):
    """The paper account."""

    cash: float = Field(default=100_000.0, gt=0, le=1e12)
    fee_bps: float = Field(default=10.0, ge=0, le=1000)
    latency_ms: int = Field(default=100, ge=0, le=60_000)


class Backtest(Section):
    """The backtest."""

    rearm_after: Duration = Field(default="24h", description="a latched halt lifts after it; halts are counted")
    retrain_every: DurationOrNever = Field(default="7d", description='walk-forward training; "" = at the start alone')
    spread_bps: float = Field(default=2.0, ge=0, le=1000, description="bid-ask spread; a fill is charged half of it")
    impact_bps: float = Field(
        default=50.0,
        ge=0,
        le=10_000,
        description="price move of taking a bar's whole volume; goes with the square root",
    )
    participation: float = Field(default=0.1, gt=0, le=1, description="share of a bar's volume that orders may take")
    fee_tiers: Annotated[tuple[tuple[float, float, float], ...], BeforeValidator(as_tuple)] = Field(
        default=(),
        description="`[[volume, maker_bps, taker_bps], …]`: fees from a 30-day volume in quote on; empty: `paper.fee_bps`",
    )

    @property
    def rearm_after_ns(self) -> int:
        """Return the time after which a latched halt lifts, in ns."""
        return duration_ns(self.rearm_after)

    @property
    def retrain_every_ns(self) -> int:
        """Return the time between two trainings of a run in ns; 0: only at its start."""
        return duration_ns(self.retrain_every)


class LedgerTable(Section):
    """Durable memory."""

    url: str = Field(default="", description='"" = sqlite in <state_dir>/<mode>/ballast.db; or postgresql://…')
    password_file: str = Field(default="", description="file holding the password (systemd credential, Docker secret)")
    standby: bool = Field(default=False, description="wait while another instance holds the account, then take over")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not re.match(r"sqlite:///[^\s?]+$|postgresql(\+psycopg)?://\S*$", value):
            raise ValueError('must be "", sqlite:///file or postgresql://user@host/database')
        return value


class JournalTable(Section):
    """The flight recorder."""

    max_bytes: int = Field(default=10_000_000_000, ge=200_000, le=10**13, description="oldest segments go first")
    segment_bytes: int = Field(
        default=2**26, ge=16_384, le=2**30, description="a file's; each opens with the whole state"
    )


class Api(Section):
    """HTTP status and control."""

    listen: Listen = "127.0.0.1:8080"
    token_file: str = Field(default="", description="scope read")
    control_token_file: str = Field(default="", description="scope control")
    kill_token_file: str = Field(default="", description="scope kill")


class MetricsTable(Section):
    """The Prometheus listener."""

    listen: Listen = "127.0.0.1:9108"


class Ui(Section):
    """The web page."""

    listen: ListenOrOff = Field(default="127.0.0.1:8081", description='a process of its own; "" = off')


class Mqtt(Section):
    """The message bus."""

    url: str = Field(default="", description="mqtt://user@host:1883, mqtts://…; empty = off")
    password_file: str = ""
    command_key_file: str = ""

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not re.match(r"mqtts?://[^/\s]+", value):
            raise ValueError("must be mqtt://user@host:1883 or mqtts://…, or empty for off")
        return value


class Log(Section):
    """Logging."""

    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console on a terminal, JSON otherwise"
    )
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Section):
    """The resolved configuration; immutable. Made by ``daemon.settings.load_settings``."""

    mode: Literal["paper", "live"] = Field(
        default="paper", description="in paper no key is read and no signed request is sent"
    )
    live_confirm: str = Field(default="", description="live starts only when this equals `instance`")
    instance: str = Field(default="main", description="MQTT root, lock name, part of client order ids")
    universe: Annotated[tuple[str, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=UNIVERSE_MAX)] = (
        "BTC/USDT",
        "ETH/USDT",
        "SOL/USDT",
        "XRP/USDT",
    )
    quote: str = Field(default="USDT", description="every pair is quoted in it")
    bar: str = Field(default="1h", description="1s 5s 15s 30s 1m 3m 5m 15m 30m 1h 4h 1d")
    strategy: str = Field(default="strategies.forecast_optimise:ForecastOptimise", description="module:Class")
    state_dir: str = Field(
        "var", min_length=1, description="models, data, lock, kill latch; ledger and journal per mode"
    )
    strategy_params: Params = Field(default_factory=dict, description="passed to the strategy as they are")
    portfolio: Portfolio = Portfolio()
    exchange: Exchange = Exchange()
    feed: Feed = Feed()
    forecast: ForecastTable = ForecastTable()
    optimizer: Optimizer = Optimizer()
    execution: Execution = Execution()
    risk: Risk = Risk()
    paper: Paper = Paper()
    backtest: Backtest = Backtest()
    ledger: LedgerTable = LedgerTable()
    journal: JournalTable = JournalTable()
    api: Api = Api()
    metrics: MetricsTable = MetricsTable()
    ui: Ui = Ui()
    mqtt: Mqtt = Mqtt()
    log: Log = Log()
    _folders: tuple[str, ...] = PrivateAttr(default=())

    @field_validator("universe")
    @classmethod
    def _universe(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            if not _PAIR.fullmatch(pair):
                raise ValueError(f'"{pair}" is not a spot pair in ccxt form such as "BTC/USDT"')
        twice = sorted({pair for pair in value if value.count(pair) > 1})
        if twice:
            raise ValueError(f"lists {twice[0]} more than once")
        return value

    @field_validator("bar")
    @classmethod
    def _bar(cls, value: str) -> str:
        bar_ns(value)
        return value

    @field_validator("instance")
    @classmethod
    def _instance(cls, value: str) -> str:
        if not _INSTANCE.fullmatch(value):
            raise ValueError("must be 1 to 32 of a-z 0-9 _ -, beginning with a letter or digit")
        return value

    @field_validator("strategy")
    @classmethod
    def _strategy(cls, value: str) -> str:
        if not _CLASS.fullmatch(value):
            raise ValueError('must be "package.module:Class"')
        return value

    @cached_property
    def bar_ns(self) -> int:
        """Return the bar's length in ns."""
        return bar_ns(self.bar)

    @property
    def state_path(self) -> Path:
        """Return the state folder."""
        return Path(self.state_dir)

    @property
    def mode_path(self) -> Path:
        """Return the folder that holds ledger and journal of this mode."""
        return self.state_path / self.mode

    @property
    def folders(self) -> tuple[str, ...]:
        """Return where the files lay that this was read from: modules of the user's own are looked for there too."""
        return self._folders

    def found_in(self, folders: tuple[str, ...]) -> "Settings":
        """Return the same configuration with the folders of its files."""
        same = self.model_copy()
        same._folders = folders  # noqa: SLF001 - its own, on a copy of itself
        return same
