"""Balances of the paper account: free and locked amounts, moved exactly."""

from decimal import Decimal
from typing import Final

from daemon.core.books import exactly
from daemon.domain.orders import Balance

ZERO: Final = Decimal(0)


class Purse:
    """Free and locked amounts by asset."""

    def __init__(self) -> None:
        self._free: dict[str, Decimal] = {}
        self._locked: dict[str, Decimal] = {}

    def free(self, asset: str) -> Decimal:
        """Return what may be spent."""
        return self._free.get(asset, ZERO)

    def add(self, asset: str, amount: Decimal) -> None:
        """Add a signed amount to what is free."""
        with exactly():
            self._free[asset] = self._free.get(asset, ZERO) + amount

    def lock(self, asset: str, amount: Decimal) -> None:
        """Move an amount from free to locked; a negative one moves back."""
        with exactly():
            self._free[asset] = self._free.get(asset, ZERO) - amount
            self._locked[asset] = self._locked.get(asset, ZERO) + amount

    def balances(self) -> tuple[Balance, ...]:
        """Return what is held, in the order of names."""
        assets = sorted({*self._free, *self._locked})
        held = (Balance(asset=a, free=self.free(a), locked=self._locked.get(a, ZERO)) for a in assets)
        return tuple(one for one in held if one.free or one.locked)
