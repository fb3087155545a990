"""The configuration: what is accepted, and the one line that says why something is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.domain.errors import ConfigError, Unsafe
from daemon.settings import (
    Settings,
    config_hash,
    json_schema,
    ledger_password,
    ledger_secrets,
    load_settings,
    read_keys,
    redacted,
    verify_start,
)

REPO = Path(__file__).resolve().parents[2]
MARKER = "MARKERkey0123456789"


def write(path: Path, text: str) -> Path:
    """Write a small file."""
    path.write_text(text, encoding="utf-8")
    return path


def problem(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> str:
    """The message that loading this text raises; it must be a configuration error of one line."""
    with pytest.raises(ConfigError) as caught:
        load_settings([write(tmp_path / "bad.toml", text)], env or {})
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_paper_file_equals_the_defaults() -> None:
    """config/paper.toml says what the code does without it."""
    from_file = load_settings([REPO / "config/paper.toml"], {})

    assert from_file.folders == (str(REPO / "config"),)
    assert from_file.found_in(()) == load_settings([], {})
    assert config_hash(from_file) == config_hash(load_settings([], {}))


BEYOND_THE_FILE = {
    "risk": {"max_repeats"},
    "ledger": {"password_file"},
    "journal": {"segment_bytes"},
    "backtest": {"spread_bps", "impact_bps", "participation", "fee_tiers", "retrain_every"},
}
"""Keys that came after the file's text was agreed; nothing that trades changes until somebody writes them."""


def test_paper_file_names_every_key() -> None:
    """Every key of the contract stands in the file, secrets and later additions aside."""
    import tomllib

    written = tomllib.loads((REPO / "config/paper.toml").read_text())
    for name, field in Settings.model_fields.items():
        assert name in written
        model: Any = field.annotation
        if hasattr(model, "model_fields"):
            later = {"api_key", "api_secret"} | BEYOND_THE_FILE.get(name, set())
            assert set(written[name]) == set(model.model_fields) - later


def test_live_file_differs_in_mode_and_confirmation_only() -> None:
    """Going live changes two keys and nothing else."""
    paper = (REPO / "config/paper.toml").read_text().splitlines()
    live = (REPO / "config/live.toml").read_text().splitlines()
    changed = [(old.split(" = ")[0], new.split(" = ")[0]) for old, new in zip(paper, live, strict=True) if old != new]
    settings = load_settings([REPO / "config/live.toml"], {})

    assert changed == [("mode", "mode"), ("live_confirm", "live_confirm")]
    assert (settings.mode, settings.live_confirm) == ("live", settings.instance)


def test_later_files_and_the_environment_win(tmp_path: Path) -> None:
    """Files in order, then variables; tables merge key by key."""
    first = write(tmp_path / "a.toml", "[risk]\nmax_weight = 0.2\nmin_cash = 0.1\n")
    second = write(tmp_path / "b.toml", "[risk]\nmax_weight = 0.25\n[strategy_params]\nx = 1\n")
    env = {
        "BALLAST_RISK__MIN_CASH": "0.05",
        "BALLAST_UNIVERSE": "BTC/USDT, ETH/USDT",
        "BALLAST_EXCHANGE__ID": "kraken",
        "BALLAST_LEDGER__STANDBY": "true",
        "BALLAST_STRATEGY_PARAMS__Y": "2",
        "BALLAST_FEED__GRACE_MS": "250",
        "PATH": "ignored",
    }
    settings = load_settings([first, second], env)

    assert (settings.risk.max_weight, settings.risk.min_cash) == (0.25, 0.05)
    assert settings.universe == ("BTC/USDT", "ETH/USDT")
    assert (settings.exchange.id, settings.ledger.standby) == ("kraken", True)
    assert settings.strategy_params == {"x": 1, "y": 2}
    assert settings.feed.grace_ms == 250


def test_durations_capital_and_bars() -> None:
    """Text becomes nanoseconds, amounts and shares."""
    from daemon.settings_values import duration_ns, parse_capital

    hour = 3_600_000_000_000
    settings = load_settings([], {"BALLAST_PORTFOLIO__CAPITAL": "50%", "BALLAST_BAR": "15m"})

    assert (duration_ns("24h"), duration_ns("1h30m"), duration_ns("250ms"), duration_ns("")) == (
        24 * hour,
        hour + hour // 2,
        250_000_000,
        0,
    )
    assert settings.bar_ns == hour // 4
    assert settings.portfolio.capital_share == 0.5
    assert settings.portfolio.capital_amount is None
    assert str(parse_capital("25000.50")[0]) == "25000.50"
    assert parse_capital("all") == (None, None)
    assert settings.risk.stop_cooldown_ns == 24 * hour
    for bad in ("24", "1x", "h", "1h ", "-1h", "99999d"):
        with pytest.raises(ValueError, match="must be"):
            duration_ns(bad)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[risk]\nmax_weigth = 0.1\n", ["risk.max_weigth", "unknown key", 'did you mean "max_weight"']),
        ("colour = 1\n", ["colour", "unknown key", "config --schema"]),
        ('[risk]\nmax_weight = "0.3"\n', ["risk.max_weight", '"0.3"', "number without quotes"]),
        ("[feed]\ngrace_ms = 1.5\n", ["feed.grace_ms", "1.5", "whole number"]),
        ("[feed]\ngrace_ms = true\n", ["feed.grace_ms", "whole number"]),
        ("bar = 3\n", ["bar", "3", "text in quotes"]),
        ("risk = 3\n", ["risk", "table"]),
        ('universe = "BTC/USDT"\n', ["universe", "list"]),
        ("universe = []\n", ["universe", "at least 1"]),
        ('universe = ["BTCUSDT"]\n', ["universe", "BTCUSDT", "ccxt form"]),
        ('universe = ["BTC/USDT", "BTC/USDT"]\n', ["universe", "more than once"]),
        ('universe = ["BTC/EUR"]\n', ["universe", "BTC/EUR", "quoted in USDT"]),
        ("[risk]\nmax_weight = 1.5\n", ["risk.max_weight", "1.5", "at most 1"]),
        ("[risk]\nmax_weight = nan\n", ["risk.max_weight", "finite"]),
        ("[risk]\nmax_gross = 3.0\n", ["risk.max_gross", "at most 1"]),
        ("[risk]\nmax_drawdown = 0.0\n", ["risk.max_drawdown", "more than 0"]),
        ("[risk]\nexit_collar = 0.001\n", ["risk.exit_collar", "price_collar"]),
        ('[risk]\nstop_cooldown = "24"\n', ["risk.stop_cooldown", "24h"]),
        ("[optimizer]\nfully_invested = true\n[risk]\nmax_weight = 0.1\n", ["risk.max_weight", "0.4", "0.98"]),
        ('[exchange]\nid = "binanse"\n', ["exchange.id", "binanse", "ccxt"]),
        ('[exchange]\nrest_url = "http://10.0.0.1:80"\n', ["exchange.rest_url", "http://10.0.0.1", "https"]),
        ('[exchange]\nws_url = "ws://example.org"\n', ["exchange.ws_url", "wss"]),
        ('[exchange]\nrest_url = "ftp://127.0.0.1"\n', ["exchange.rest_url", "https"]),
        ('[exchange]\napi_key = "k"\n', ["exchange.api_key", "never live in the file", "BALLAST_EXCHANGE__API_KEY"]),
        ('bar = "7m"\n', ["bar", "7m", "1s"]),
        ('bar = "1s"\n[feed]\ngrace_ms = 600\n', ["feed.grace_ms", "600", "half"]),
        ("[forecast]\ntrain_bars = 60\n", ["forecast.train_bars", "60"]),
        ('mode = "test"\n', ["mode", "'paper' or 'live'"]),
        ('instance = "Main Street"\n', ["instance", "a-z"]),
        ('strategy = "nothing"\n', ["strategy", "package.module:Class"]),
        ('[portfolio]\ncapital = "150%"\n', ["portfolio.capital", "150%", "share"]),
        ('[api]\nlisten = "8080"\n', ["api.listen", "host:port"]),
        ('[ledger]\nurl = "mysql://u:hunter22@h/d"\n', ["ledger.url", "postgresql"]),
        ('[mqtt]\nurl = "http://h"\n', ["mqtt.url", "mqtt://"]),
        ("a = \n", ["not valid TOML"]),
        ('[exchange]\nrest_url = "http://127.0.0.1:1"\n', ["exchange.ws_url", "real exchange"]),
        ("[exchange]\nsandbox = true\n", ["exchange.sandbox", "ws_url and ws_api_url"]),
    ],
)
def test_bad_values_are_one_line(tmp_path: Path, text: str, wanted: list[str]) -> None:
    """Each names the file, the key, the value and the remedy."""
    message = problem(tmp_path, text)

    assert all(part in message for part in wanted), message
    assert "hunter22" not in message
    if "universe" not in message and "fully_invested" not in message:
        assert "bad.toml" in message or message.startswith(("risk.", "feed.", "forecast.", "exchange."))


@pytest.mark.parametrize("url", [f"postgresql://u:{MARKER}@h/d", f"postgresql://u@h/d?x=1&password={MARKER}"])
def test_i18_a_password_never_lives_in_the_file(tmp_path: Path, url: str) -> None:
    """One in the ledger's URL is refused there; in the variable it works and is shown nowhere."""
    message = problem(tmp_path, f'[ledger]\nurl = "{url}"\n')
    settings = load_settings([], {"BALLAST_LEDGER__URL": url, "BALLAST_LEDGER__STANDBY": "true"})

    assert "ledger.password_file" in message
    assert MARKER not in message
    assert settings.ledger.url == url
    assert MARKER not in json.dumps(redacted(settings))
    assert MARKER in ledger_secrets(settings, {})
    other = load_settings([], {"BALLAST_LEDGER__URL": url.replace(MARKER, "other"), "BALLAST_LEDGER__STANDBY": "true"})
    assert config_hash(other) == config_hash(settings)


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("", True),
        ("sqlite:////var/lib/ballast/x.db", True),
        ("postgresql://ballast@db1,db2:5433/ballast?sslmode=verify-full&target_session_attrs=read-write", True),
        ("postgresql+psycopg:///ballast?host=/run/postgresql", True),
        ("postgresql+asyncpg://h/d", False),
        ("sqlite://", False),
        ("postgres://h/d", False),
        ("postgresql://h/d d", False),
    ],
)
def test_ledger_urls(url: str, fine: bool) -> None:
    """What libpq takes, a file, or nothing; other drivers are named as wrong."""
    if fine:
        assert load_settings([], {"BALLAST_LEDGER__URL": url}).ledger.url == url
        return
    with pytest.raises(ConfigError, match=r"ledger\.url.*postgresql://user@host/database"):
        load_settings([], {"BALLAST_LEDGER__URL": url})


def test_the_ledgers_password_comes_from_its_file(tmp_path: Path) -> None:
    """Read and stripped; a file that is not there is named; all passwords that are known are kept out of logs."""
    secret = write(tmp_path / "secret", f"{MARKER}\n")
    settings = load_settings([], {"BALLAST_LEDGER__PASSWORD_FILE": str(secret)})
    missing = load_settings([], {"BALLAST_LEDGER__PASSWORD_FILE": str(tmp_path / "absent")})

    assert ledger_password(settings) == MARKER
    assert ledger_secrets(settings, {"PGPASSWORD": "from-libpq"}) == [MARKER, "", "from-libpq"]
    assert ledger_password(load_settings([], {})) == ""
    with pytest.raises(ConfigError, match=r"ledger\.password_file.*cannot be read"):
        ledger_password(missing)


def test_several_problems_are_several_lines(tmp_path: Path) -> None:
    """One line each, all at once."""
    with pytest.raises(ConfigError) as caught:
        load_settings([write(tmp_path / "bad.toml", "[risk]\nmax_weight = 9\nmin_cash = 9\n")], {})

    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({"BALLAST_MDOE": "live"}, ["BALLAST_MDOE", "no such key"]),
        ({"BALLAST_RISK__NOTHING": "1"}, ["BALLAST_RISK__NOTHING", "no such key"]),
        ({"BALLAST_RISK": "1"}, ["BALLAST_RISK", "no such key"]),
        ({"BALLAST_RISK__MAX_WEIGHT": "much"}, ["BALLAST_RISK__MAX_WEIGHT", '"much"', "number"]),
    ],
)
def test_bad_variables(env: dict[str, str], wanted: list[str]) -> None:
    """A misspelt variable is an error, not a default."""
    with pytest.raises(ConfigError) as caught:
        load_settings([], env)

    assert all(part in str(caught.value) for part in wanted)


def test_missing_file(tmp_path: Path) -> None:
    """A configuration that was asked for must exist."""
    with pytest.raises(ConfigError, match=r"nope\.toml: cannot be read"):
        load_settings([tmp_path / "nope.toml"], {})


def test_paper_reads_no_key(tmp_path: Path) -> None:
    """In paper the variables are not even kept, and the files are not opened."""
    env = {"BALLAST_EXCHANGE__API_KEY": MARKER, "BALLAST_EXCHANGE__API_SECRET_FILE": str(tmp_path / "absent")}
    settings = load_settings([], env)

    assert settings.exchange.api_key.get_secret_value() == ""
    verify_start(settings.model_copy(update={"state_dir": str(tmp_path / "var")}))
    with pytest.raises(Unsafe):
        read_keys(settings)


def live(tmp_path: Path, **env: str) -> Settings:
    """The live configuration with these variables."""
    return load_settings(
        [REPO / "config/live.toml"],
        {"BALLAST_STATE_DIR": str(tmp_path / "var"), **{f"BALLAST_{name}": value for name, value in env.items()}},
    )


def test_live_needs_its_confirmation(tmp_path: Path) -> None:
    """Without `live_confirm` equal to `instance` a live start is refused as unsafe."""
    settings = live(tmp_path, LIVE_CONFIRM="", EXCHANGE__API_KEY="k" * 20, EXCHANGE__API_SECRET="s" * 20)

    with pytest.raises(Unsafe, match='live_confirm = "main"') as caught:
        verify_start(settings)
    assert caught.value.exit_code == 77


def test_live_needs_keys(tmp_path: Path) -> None:
    """A missing key names its variable; a secret file is read and stripped."""
    secret = write(tmp_path / "secret", "file-secret-123\n")

    with pytest.raises(ConfigError, match="BALLAST_EXCHANGE__API_KEY or exchange"):
        verify_start(live(tmp_path))
    settings = live(tmp_path, EXCHANGE__API_KEY=MARKER, EXCHANGE__API_SECRET_FILE=str(secret))
    verify_start(settings)
    assert read_keys(settings).secret.get_secret_value() == "file-secret-123"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(live(tmp_path, EXCHANGE__API_KEY=MARKER, EXCHANGE__API_SECRET_FILE=str(tmp_path / "absent")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXCHANGE__ID", "kraken"),
        ("FORECAST__MODEL", "transformer"),
        ("MQTT__URL", "mqtt://127.0.0.1"),
    ],
)
def test_what_is_not_built_yet_does_not_start(tmp_path: Path, name: str, value: str) -> None:
    """A value that would be ignored is refused at a start, not silently dropped."""
    settings = load_settings([], {"BALLAST_STATE_DIR": str(tmp_path), f"BALLAST_{name}": value})

    with pytest.raises(ConfigError, match=name.lower().replace("__", r"\.")) as caught:
        verify_start(settings)
    assert len(str(caught.value).splitlines()) == 1


def test_unwritable_state_folder(tmp_path: Path) -> None:
    """A state folder that cannot be made is refused before anything starts."""
    blocked = write(tmp_path / "file", "")
    settings = load_settings([], {"BALLAST_STATE_DIR": str(blocked / "var")})

    with pytest.raises(ConfigError, match=r"state_dir = .*not writable") as caught:
        verify_start(settings)
    assert caught.value.exit_code == 78


def test_nothing_secret_is_printed(tmp_path: Path) -> None:
    """Marker secrets appear neither in the redacted tree, nor in repr, nor in the schema."""
    env = {
        "EXCHANGE__API_KEY": MARKER,
        "EXCHANGE__API_SECRET": MARKER,
        "LEDGER__URL": f"postgresql://u:{MARKER}@h/d",
        "STRATEGY_PARAMS__API_TOKEN": MARKER,
    }
    settings = live(tmp_path, **env)
    shown = json.dumps(redacted(settings)) + repr(settings.exchange) + json.dumps(json_schema())

    assert MARKER not in shown
    assert "postgresql://u:**********@h/d" in shown


def test_hash_follows_values_not_secrets(tmp_path: Path) -> None:
    """The hash changes with a limit and not with a key."""
    with_key = live(tmp_path, EXCHANGE__API_KEY=MARKER)

    assert config_hash(with_key) == config_hash(live(tmp_path))
    assert config_hash(live(tmp_path, RISK__MAX_WEIGHT="0.2")) != config_hash(with_key)


def test_fee_tiers_are_a_list_of_lists(tmp_path: Path) -> None:
    """Nested lists of the file; rows of another length are an error."""
    tiers = write(tmp_path / "a.toml", "[backtest]\nfee_tiers = [[0, 8, 10], [1000000.0, 6.5, 9]]\n")
    assert load_settings([tiers], {}).backtest.fee_tiers == ((0, 8, 10), (1e6, 6.5, 9))
    assert "backtest.fee_tiers.0.2 = null: is missing" in problem(tmp_path, "[backtest]\nfee_tiers = [[0, 8]]\n")


def test_strategy_params_can_be_sent(tmp_path: Path) -> None:
    """What the worker could not be told is said when the file is read."""
    line = problem(tmp_path, f"[strategy_params]\nlookback = {2**70}\n")
    assert "strategy_params" in line
    assert "cannot be passed to the strategy" in line


def test_files_are_remembered_by_their_folders(tmp_path: Path) -> None:
    """Each folder once, in the order of the files, absolute; the configuration's hash does not depend on them."""
    (tmp_path / "other").mkdir()
    files = [write(tmp_path / name, "") for name in ("a.toml", "b.toml", "other/c.toml")]
    settings = load_settings(files, {})

    assert settings.folders == (str(tmp_path), str(tmp_path / "other"))
    assert config_hash(settings) == config_hash(load_settings([], {}))
