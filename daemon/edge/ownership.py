"""Whose money it is: what of the account belongs to Ballast, and what ledger and account differ in (pure)."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from daemon.domain.errors import ConfigError
from daemon.domain.events import Flow

ZERO: Final = Decimal(0)
GUESSES_MAX: Final = 12
"""Markets searched for a trade by hand, each a weight of 20."""

Break = tuple[str, Decimal, Decimal]


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Whose money it is: ``[portfolio]`` of the configuration, the quote and the universe's base assets."""

    quote: str
    bases: tuple[str, ...]
    capital: str = "all"
    adopt: str = "none"

    @property
    def watched(self) -> frozenset[str]:
        """Return the assets whose balances must agree to the last digit."""
        return frozenset({self.quote, *self.bases})


def own_share(capital: str, cash: Decimal) -> Decimal:
    """Return how much of the quote cash on the account is ours at the first start.

    Parameters
    ----------
    capital
        "all", an amount, or a share such as "50%".
    cash
        What is there, in quote.

    Raises
    ------
    ConfigError
        ``capital`` is none of these.
    """
    if capital == "all":
        return cash
    text, share = (capital[:-1], True) if capital.endswith("%") else (capital, False)
    try:
        amount = Decimal(text.strip())
    except ArithmeticError:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or (share and amount > 100):
        raise ConfigError(
            f'portfolio.capital: {capital!r} must be "all", an amount such as "25000" or a share such as "50%"'
        )
    return cash * amount / 100 if share else min(amount, cash)


def opening_flows(
    there: Mapping[str, Decimal], ownership: Ownership, *, ts_ns: int, external: Decimal = ZERO
) -> tuple[Flow, ...]:
    """Return the opening balances of a first start: what is ours and what is external, asset by asset.

    ``there`` is what the account holds of each asset beyond what the ledger accounts for; ``external`` the quote that
    is booked as external already, by an opening that was cut short. Our own quote comes last: it says that the opening
    is whole (``SqlLedger.first_start``).
    """
    flows: list[Flow] = []
    for asset, amount in sorted(there.items(), key=lambda one: (one[0] == ownership.quote, one[0])):
        ours = ZERO
        if asset == ownership.quote:
            ours = own_share(ownership.capital, amount + external)
        elif ownership.adopt == "universe" and asset in ownership.bases:
            ours = amount
        for part, mine in ((amount - ours, False), (ours, True)):
            if part:
                flows.append(Flow(asset=asset, amount=part, ours=mine, detail="opening balance", ts_ns=ts_ns))
    return tuple(flows)


def differences(ledger: Mapping[str, Decimal], venue: Mapping[str, Decimal]) -> tuple[Break, ...]:
    """Return (asset, ledger, exchange) for every asset whose amounts differ, in the order of names."""
    return tuple(
        (asset, ledger.get(asset, ZERO), venue.get(asset, ZERO))
        for asset in sorted({*ledger, *venue})
        if ledger.get(asset, ZERO) != venue.get(asset, ZERO)
    )


def shares(amount: Decimal, *, total: Decimal, own: Decimal, all_ours: bool) -> tuple[tuple[Decimal, bool], ...]:
    """Return whose a change of the account is: (signed amount, ours) for each part that is not zero.

    Parameters
    ----------
    amount
        What came (> 0) or went (< 0) of an asset.
    total, own
        What the account held of it before, and what of that is ours.
    all_ours
        Everything of this asset is ours: the quote with ``capital = "all"``.
    """
    if all_ours:
        parts: tuple[tuple[Decimal, bool], ...] = ((amount, True),)
    elif amount > 0:
        parts = ((amount, False),)
    else:
        external = max(amount, -max(total - own, ZERO))
        parts = ((external, False), (amount - external, True))
    return tuple(part for part in parts if part[0])


def guesses(assets: Iterable[str], quote: str) -> tuple[str, ...]:
    """Return the markets in which a trade could have changed these assets: against the quote, and between two of them.

    Which of two assets is the base is the venue's choice, so both ways round, those against the quote first; at most
    ``GUESSES_MAX``.
    """
    others = sorted({asset for asset in assets if asset != quote})
    against = [f"{asset}/{quote}" for asset in others]
    turned = [f"{quote}/{asset}" for asset in others]
    between = [f"{base}/{other}" for base in others for other in others if base != other]
    return (*against, *turned, *between)[: max(GUESSES_MAX, len(against))]
