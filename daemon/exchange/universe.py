"""The markets that exist: names, prices, steps and limits of each symbol."""

from decimal import Decimal
from typing import Final

import msgspec

from daemon.exchange.config import SimConfig

__all__ = ["SymbolSpec", "padding_names", "symbol_specs"]

_KNOWN: Final = (
    # base, price, price decimals, quantity decimals, volatility factor
    ("BTC", 64_000.0, 2, 5, 0.80),
    ("ETH", 3_400.0, 2, 4, 0.95),
    ("SOL", 150.0, 2, 3, 1.25),
    ("XRP", 2.4, 4, 1, 1.10),
    ("ADA", 0.75, 4, 1, 1.15),
    ("DOGE", 0.21, 5, 0, 1.30),
    ("LTC", 95.0, 2, 3, 1.00),
    ("LINK", 17.0, 3, 2, 1.20),
)


class SymbolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One market. Prices are whole ticks of ``10**-price_decimals``, quantities whole lots of ``10**-qty_decimals``."""

    index: int
    base: str
    quote: str
    price: float  # quote per base at the moment the market goes live
    price_decimals: int
    qty_decimals: int
    volatility: float = 1.0  # factor on the configured volatility
    min_notional: Decimal = Decimal(5)
    max_notional: Decimal = Decimal(9_000_000)
    max_open_orders: int = 200
    price_up: Decimal = Decimal(5)  # PERCENT_PRICE_BY_SIDE multipliers
    price_down: Decimal = Decimal("0.2")

    @property
    def name(self) -> str:
        """Symbol as Binance writes it, "BTCUSDT"."""
        return self.base + self.quote

    @property
    def tick(self) -> Decimal:
        """Price step in quote per base."""
        return Decimal(1).scaleb(-self.price_decimals)

    @property
    def lot(self) -> Decimal:
        """Quantity step in base."""
        return Decimal(1).scaleb(-self.qty_decimals)

    @property
    def max_price(self) -> Decimal:
        """Highest price allowed by PRICE_FILTER."""
        return (Decimal(repr(self.price)) * 1000).quantize(Decimal(1)) + 1

    @property
    def max_qty(self) -> Decimal:
        """Largest quantity allowed by LOT_SIZE."""
        return (self.max_notional / Decimal(repr(self.price))).quantize(self.lot)


def symbol_specs(config: SimConfig) -> tuple[SymbolSpec, ...]:
    """List the live markets of a configuration: the known ones first, then invented ones (SIM009, SIM010, ...)."""
    specs: list[SymbolSpec] = []
    for index in range(config.symbols):
        if index < len(_KNOWN):
            base, price, price_decimals, qty_decimals, volatility = _KNOWN[index]
        else:
            price = (0.5, 4.0, 30.0, 200.0, 1_500.0)[index % 5]
            price_decimals, qty_decimals = (5, 4, 3, 2, 2)[index % 5], (0, 1, 2, 3, 4)[index % 5]
            base, volatility = f"SIM{index + 1:03d}", 0.8 + 0.1 * (index % 6)
        specs.append(
            SymbolSpec(
                index=index,
                base=base,
                quote="USDT",
                price=price,
                price_decimals=price_decimals,
                qty_decimals=qty_decimals,
                volatility=volatility,
            )
        )
    return tuple(specs)


def padding_names(config: SimConfig) -> tuple[tuple[str, str], ...]:
    """List (base, quote) of the markets that only fill exchangeInfo up to ``pad_symbols_to``."""
    count = max(0, config.pad_symbols_to - config.symbols)
    quotes = ("USDT", "BTC", "ETH", "EUR", "TRY", "FDUSD")
    return tuple((f"PAD{index // len(quotes):04d}", quotes[index % len(quotes)]) for index in range(count))
