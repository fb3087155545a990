"""Load the configuration: TOML files, later ones win, then the environment. The only module that reads the environment.

``load_settings`` judges values and how they fit together; ``verify_start`` judges whether this machine may start with
them (live confirmed, keys present, state folder writable), because ``status`` or ``kill`` must work without that.
"""

import difflib
import hashlib
import json
import os
import tempfile
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from daemon.domain.errors import ConfigError, Unsafe
from daemon.settings_checks import contradictions, not_built
from daemon.settings_schema import Settings
from daemon.settings_values import BOUNDS, WANTED, hide_password, is_loopback, url_password

ENV_PREFIX = "BALLAST_"
CRASH_AT = "BALLAST_TEST_CRASH_AT"
ENV_OTHER = frozenset({"BALLAST_SHARED", CRASH_AT})
"""Variables with our prefix that are no configuration: where the tests find recorded data, where a test ends the daemon."""

CONFIG_BYTES_MAX = 1_000_000
SECRET_BYTES_MAX = 16_384
LINE_CHARS_MAX = 500
"""Longest explanation of one problem; what was given may be repeated in it."""
_SECRET_WORDS = ("secret", "password", "api_key", "token", "credential")

__all__ = [
    "ExchangeKeys",
    "Settings",
    "config_hash",
    "crash_at",
    "json_schema",
    "ledger_password",
    "ledger_secrets",
    "load_settings",
    "read_keys",
    "redacted",
    "verify_start",
]


class ExchangeKeys(NamedTuple):
    """The venue's key and secret; never logged, never journalled."""

    key: SecretStr
    secret: SecretStr


def load_settings(files: Sequence[str | Path] = (), env: Mapping[str, str] | None = None) -> Settings:
    """Return the resolved, validated configuration.

    Parameters
    ----------
    files
        TOML files; a key in a later one replaces the same key of an earlier one.
    env
        Environment; the process's own when None.

    Raises
    ------
    ConfigError
        One line per problem: the key, the value unless it is secret, what is wrong and the remedy.
    """
    tree: dict[str, Any] = {}
    sources: dict[tuple[str, ...], str] = {}
    for file in files:
        _merge(tree, _read_toml(Path(file)), str(file), sources)
    _merge_env(tree, os.environ if env is None else env, sources)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(detail, tree, sources) for detail in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    problems = contradictions(settings)
    if problems:
        raise ConfigError("\n".join(problems))
    folders = dict.fromkeys(str(Path(file).absolute().parent) for file in files)
    return settings.found_in(tuple(folder for folder in folders if _is_text(folder)))


def verify_start(settings: Settings) -> None:
    """Refuse to start what must not start on this machine with this configuration.

    Raises
    ------
    Unsafe
        Live mode without ``live_confirm`` equal to ``instance``.
    ConfigError
        A key is missing in live mode, the state folder is not writable, or a value asks for what is not built yet.
    """
    missing = not_built(settings)
    if missing:
        raise ConfigError("\n".join(missing))
    if settings.mode == "live":
        if settings.live_confirm != settings.instance:
            raise Unsafe(
                f'live_confirm = "{settings.live_confirm}": live trading starts only when it equals instance; '
                f'set live_confirm = "{settings.instance}" to trade with real money'
            )
        read_keys(settings)
    folder = settings.mode_path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f'state_dir = "{settings.state_dir}": not writable ({error.strerror or error}); '
            "choose a folder this user may write, or change its owner"
        ) from None


def crash_at(settings: Settings, env: Mapping[str, str] | None = None) -> int:
    """Return at which crash point a test wants this process to end, 0 when no test asks for it.

    Raises
    ------
    ConfigError
        It is no number from 1 on, or real money is at stake: live mode against anything but this machine.
    """
    text = (os.environ if env is None else env).get(CRASH_AT, "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
        raise ConfigError(f"{CRASH_AT}={text[:40]!r}: must be a number from 1 to 999999999; unset it to trade")
    if settings.mode == "live" and not is_loopback(urlsplit(settings.exchange.rest_url).hostname or ""):
        raise ConfigError(
            f"{CRASH_AT}={text}: a test that ends the daemon, but exchange.rest_url is not this machine; "
            "unset it to trade, or use a simulated exchange"
        )
    return int(text)


def read_keys(settings: Settings) -> ExchangeKeys:
    """Return the exchange's key and secret: from the environment, else from the ``*_file`` keys.

    Raises
    ------
    Unsafe
        In paper mode: no key is ever read there.
    ConfigError
        If one is missing, unreadable or empty.
    """
    if settings.mode != "live":
        raise Unsafe('mode = "paper": no key is read in paper mode')
    exchange = settings.exchange
    return ExchangeKeys(
        _secret("exchange.api_key", exchange.api_key, exchange.api_key_file),
        _secret("exchange.api_secret", exchange.api_secret, exchange.api_secret_file),
    )


def ledger_password(settings: Settings) -> str:
    """Return the ledger's password from its file, "" when it comes from elsewhere. Raises ConfigError as `read_secret_file`."""
    file = settings.ledger.password_file
    return read_secret_file("ledger.password_file", file).get_secret_value() if file else ""


def ledger_secrets(settings: Settings, env: Mapping[str, str] | None = None) -> list[str]:
    """Return every password the ledger's connection may use that we know of, for logs to leave out."""
    known = os.environ if env is None else env
    return [ledger_password(settings), url_password(settings.ledger.url), known.get("PGPASSWORD", "")]


def read_secret_file(name: str, path: str) -> SecretStr:
    """Return a secret from its file, surrounding white space removed.

    Raises
    ------
    ConfigError
        If the file is missing, unreadable, empty or larger than 16 KiB.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(SECRET_BYTES_MAX + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not plain text"
        raise ConfigError(
            f'{name} = "{path}": cannot be read ({reason}); give a readable file with the secret alone'
        ) from None
    if not text or len(text) >= SECRET_BYTES_MAX:
        raise ConfigError(f'{name} = "{path}": is empty or too large; give a file with the secret alone')
    return SecretStr(text)


def redacted(settings: Settings) -> dict[str, Any]:
    """Return the resolved configuration as JSON values, secrets as asterisks, URL passwords hidden."""
    tree: dict[str, Any] = settings.model_dump(mode="json")
    for section in ("ledger", "mqtt"):
        tree[section]["url"] = hide_password(tree[section]["url"])
    tree["strategy_params"] = _hide(tree["strategy_params"])
    return tree


def config_hash(settings: Settings) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of the redacted configuration."""
    tree = redacted(settings)
    del tree["exchange"]["api_key"], tree["exchange"]["api_secret"]
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration."""
    return Settings.model_json_schema()


def _hide(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: "**********" if _is_secret(k) and isinstance(v, str) else _hide(v) for k, v in value.items()}
    return [_hide(item) for item in value] if isinstance(value, list) else value


def _is_secret(key: str) -> bool:
    return any(word in key for word in _SECRET_WORDS) and not key.endswith("_file")


def _secret(name: str, value: SecretStr, path: str) -> SecretStr:
    if value.get_secret_value():
        return value
    if path:
        return read_secret_file(f"{name}_file", path)
    variable = ENV_PREFIX + name.upper().replace(".", "__")
    raise ConfigError(f"{name}: missing, live mode needs it; set {variable} or {name}_file")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give an existing file with --config") from None
    if len(raw) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {CONFIG_BYTES_MAX} bytes; this is not a configuration file")
    try:
        tree = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or numbers and nests without end
        raise ConfigError(f"{path}: not valid TOML ({_unlined(str(error))[:200]}); correct it there") from None
    exchange = tree.get("exchange")
    for key in ("api_key", "api_secret"):
        if isinstance(exchange, dict) and key in exchange:
            raise ConfigError(
                f"{path}: exchange.{key}: secrets never live in the file; "
                f"set {ENV_PREFIX}EXCHANGE__{key.upper()} or exchange.{key}_file"
            )
    ledger = tree.get("ledger")
    url = str(ledger.get("url", "")) if isinstance(ledger, dict) else ""
    if url.startswith("postgresql") and url_password(url):
        raise ConfigError(
            f"{path}: ledger.url: a password never lives in the file; set ledger.password_file, a libpq passfile "
            f"(PGPASSFILE), PGPASSWORD or {ENV_PREFIX}LEDGER__URL"
        )
    return tree


def _merge(
    into: dict[str, Any],
    new: Mapping[str, Any],
    source: str,
    sources: dict[tuple[str, ...], str],
    path: tuple[str, ...] = (),
) -> None:
    for key, value in new.items():
        here = (*path, key)
        old = into.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value, source, sources, here)
            continue
        into[key] = value
        for known in [place for place in sources if place[: len(here)] == here]:
            del sources[known]
        sources[here] = source
        if isinstance(value, dict):
            sources[here] = source


def _merge_env(tree: dict[str, Any], env: Mapping[str, str], sources: dict[tuple[str, ...], str]) -> None:
    problems: list[str] = []
    for name in sorted(env):
        if not name.startswith(ENV_PREFIX) or name in ENV_OTHER:
            continue
        path = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
        found, annotation = _annotation(path)
        if not found:
            problems.append(f"{name}: no such key; see `ballast config --schema` for the keys, or unset the variable")
            continue
        if not _is_text(env[name]):
            problems.append(f"{name}: is not UTF-8 text; set it anew, or unset the variable")
            continue
        branch: Any = tree
        for part in path[:-1]:
            branch = branch.setdefault(part, {}) if isinstance(branch, dict) else {}
        if isinstance(branch, dict):
            branch[path[-1]] = _from_text(env[name], annotation)
            sources[path] = name
    if problems:
        raise ConfigError("\n".join(problems))
    exchange = tree.get("exchange")
    if tree.get("mode") != "live" and isinstance(exchange, dict):
        for key in ("api_key", "api_secret"):  # in paper no key is read, wherever it may lie
            exchange.pop(key, None)


def _is_text(value: str) -> bool:
    """Say whether a variable's bytes were UTF-8: others reach us as lone surrogates, which nothing can write."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _annotation(path: tuple[str, ...]) -> tuple[bool, Any]:
    model: Any = Settings
    for index, part in enumerate(path):
        fields: Mapping[str, Any] = model.model_fields
        if part not in fields:
            return False, None
        annotation = fields[part].annotation
        if index == len(path) - 1:
            return not _is_model(annotation), annotation
        if not _is_model(annotation):
            return part == "strategy_params" and index == len(path) - 2, object
        model = annotation
    return False, None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _from_text(text: str, annotation: Any) -> Any:
    """Return what TOML would have made of the text, for keys that are not text themselves."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    origin = get_origin(annotation)
    if annotation in (str, SecretStr) or (origin not in (None, tuple, dict, Union, types.UnionType)):
        return text
    if origin is tuple and not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _explain(error: ErrorDetails, tree: Mapping[str, Any], sources: Mapping[tuple[str, ...], str]) -> str:
    """Return one plain line for one of pydantic's errors."""
    path = tuple(str(part) for part in error["loc"])
    key = ".".join(path)
    where = next((sources[path[:n]] for n in range(len(path), 0, -1) if path[:n] in sources), "")
    prefix = f"{where}: " if where else ""
    if error["type"] == "extra_forbidden":
        return f"{prefix}{key}: unknown key; {_nearest(path)}"
    value: Any = tree
    for part in error["loc"]:
        if isinstance(part, int):
            value = value[part] if isinstance(value, list) and part < len(value) else None
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    shown = "(secret)" if _is_secret(path[-1]) else json.dumps(value, default=str, ensure_ascii=False)[:200]
    context = error.get("ctx", {})
    if error["type"] in BOUNDS:
        name, text = BOUNDS[error["type"]]
        wanted = text.format(f"{context[name]:g}" if isinstance(context[name], float) else context[name])
    elif error["type"] == "literal_error":
        wanted = f"must be {context['expected']}"
    elif error["type"] == "value_error":
        wanted = str(context["error"])
    else:
        wanted = WANTED.get(error["type"], error["msg"])
    return f"{prefix}{key} = {_unlined(hide_password(shown))}: {wanted[:LINE_CHARS_MAX]}"


def _unlined(text: str) -> str:
    return " ".join(text.split())


def _nearest(path: tuple[str, ...]) -> str:
    model: Any = Settings
    for part in path[:-1]:
        model = model.model_fields[part].annotation
    close = difflib.get_close_matches(path[-1], list(model.model_fields), n=1)
    return f'did you mean "{close[0]}"?' if close else "remove it, or see `ballast config --schema` for the keys"
