"""Exceptions. Expected refusals are values (``Refused``, ``NoDecision``, ``Malformed``); these are for the rest.

BallastError
├── Transient            the edge retries, bounded and jittered
│   ├── LinkDown         edge/feed.py reconnects
│   └── VenueBusy        edge REST calls wait ``retry_after_s``
└── Fatal                the command ends with ``exit_code`` and one line; under ``run`` the engine is halted first
    ├── UsageError       2   wrong arguments
    ├── Unreachable      69  exchange or service unreachable after bounded retries (one-shot commands)
    ├── AlreadyRunning   75  another instance holds the account
    ├── Unsafe           77  refused for safety
    └── ConfigError      78  configuration invalid
"""


class BallastError(Exception):
    """Base of all our exceptions; ``str()`` is one plain line."""


class Transient(BallastError):
    """A fault that passes: retried by the edge."""


class LinkDown(Transient):
    """A connection was lost or never came."""


class VenueBusy(Transient):
    """The venue asked us to wait."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        """Keep how long the venue asked us to wait, in seconds."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Fatal(BallastError):
    """A fault that ends the command."""

    exit_code = 1


class UsageError(Fatal):
    """Wrong arguments."""

    exit_code = 2


class Unreachable(Fatal):
    """A service could not be reached after bounded retries."""

    exit_code = 69


class AlreadyRunning(Fatal):
    """Another instance holds the account."""

    exit_code = 75


class Unsafe(Fatal):
    """Refused for safety: key may withdraw, wrong mode, live not confirmed."""

    exit_code = 77


class ConfigError(Fatal):
    """Configuration invalid: names the key, the value and the remedy."""

    exit_code = 78
