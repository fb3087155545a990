"""Losses measured on a flow-adjusted unit value, as a fund does it.

Equity is divided into units. A deposit or withdrawal changes the number of units at the value of the moment before, never
the value of a unit; so peak, drawdown and daily loss see trading results alone.

    unit value = equity / units,    units += flow / unit value before the flow
    drawdown   = 1 - value / highest value so far
    daily loss = 1 - value / value at the last UTC midnight
"""

from decimal import Decimal

import msgspec

from daemon.domain.market import NS_PER_S
from risk.limits import Limits
from risk.money import ONE, ZERO, exact, is_amount, ratio

DAY_NS = 86_400 * NS_PER_S


class LossVerdict(msgspec.Struct, frozen=True):
    """Where we stand: ratios >= 0 as float64, and which limits are hit.

    ``known`` is false when equity was not a usable number: then ratios and limits are those of the last good one.
    """

    drawdown: float
    daily_loss: float
    drawdown_hit: bool
    daily_loss_hit: bool
    known: bool


class DrawdownState(msgspec.Struct, frozen=True):
    """Everything ``Drawdown`` remembers, as plain values; ``units`` 0 means not started."""

    units: Decimal = ZERO
    value: Decimal = ONE
    peak: Decimal = ONE
    day: int = 0
    day_value: Decimal = ONE
    drawdown_hit: bool = False
    daily_loss_hit: bool = False


class Drawdown:
    """Follow the unit value and judge it against ``max_drawdown`` (latched) and ``max_daily_loss`` (until midnight)."""

    def __init__(self, limits: Limits) -> None:
        self._max_drawdown = exact(limits.max_drawdown)
        self._max_daily_loss = exact(limits.max_daily_loss)
        self._state = DrawdownState()

    def update(self, equity: Decimal, ts_ns: int) -> LossVerdict:
        """Judge the equity (quote currency) at ``ts_ns``.

        An equity that is not above zero is taken for unknown, not for ruin: a spot account without leverage does not
        reach zero, an account whose balances could not be read does.
        """
        if not is_amount(equity) or equity == ZERO:
            return self._verdict(known=False)
        old = self._state
        units = old.units or equity / old.value
        value = equity / units
        day = ts_ns // DAY_NS
        if day > old.day:
            # The last value seen before midnight opens the new day; the very first one opens its own.
            day_value, daily_hit = (old.value if old.units else value), False
        else:
            day, day_value, daily_hit = old.day, old.day_value, old.daily_loss_hit
        peak = max(old.peak, value)
        fall, loss = ONE - value / peak, ONE - value / day_value
        fallen, lost = old.drawdown_hit or fall >= self._max_drawdown, daily_hit or loss >= self._max_daily_loss
        self._state = DrawdownState(units, value, peak, day, day_value, fallen, lost)
        return LossVerdict(ratio(max(ZERO, fall)), ratio(max(ZERO, loss)), fallen, lost, known=True)

    def flow(self, amount: Decimal, equity_before: Decimal) -> None:
        """Book a deposit (> 0) or withdrawal (< 0) of ``amount``, valued in quote currency.

        ``equity_before`` is the equity of the moment before. When it is not a usable number the last known unit value
        stands in; a withdrawal of everything leaves no units, and the next deposit continues at the last value.
        """
        old = self._state
        if not amount.is_finite() or not (old.units or is_amount(equity_before)):
            return
        sound = is_amount(equity_before) and equity_before > ZERO
        units = old.units or (equity_before / old.value if sound else ZERO)
        value = equity_before / units if sound and units else old.value
        left = max(ZERO, units + amount / value)
        self._state = msgspec.structs.replace(old, units=left, value=value, peak=max(old.peak, value))

    def rearm(self) -> None:
        """Lift the drawdown latch by an operator's word: the peak starts again from today's value."""
        self._state = msgspec.structs.replace(self._state, drawdown_hit=False, peak=self._state.value)

    def snapshot(self) -> DrawdownState:
        """Return everything remembered, as plain values."""
        return self._state

    def restore(self, state: DrawdownState) -> None:
        """Take over what ``snapshot`` returned."""
        self._state = state

    def _verdict(self, *, known: bool) -> LossVerdict:
        now = self._state
        return LossVerdict(
            drawdown=ratio(max(ZERO, ONE - now.value / now.peak)),
            daily_loss=ratio(max(ZERO, ONE - now.value / now.day_value)),
            drawdown_hit=now.drawdown_hit,
            daily_loss_hit=now.daily_loss_hit,
            known=known,
        )
