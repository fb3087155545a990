"""Numbers as Binance writes them: fixed eight decimals."""

from decimal import Decimal
from typing import Final

__all__ = ["amount", "fixed"]

_PLACES: Final = 8


def fixed(value: int, decimals: int) -> str:
    """Write ``value * 10**-decimals`` exactly, with at least eight decimals."""
    if decimals <= 0:
        return f"{value}.00000000"
    whole, part = divmod(value, 10**decimals)
    return f"{whole}.{part:0{decimals}d}" + "0" * (_PLACES - decimals)


def amount(value: Decimal) -> str:
    """Write a Decimal with eight decimals."""
    return f"{value:.8f}"
