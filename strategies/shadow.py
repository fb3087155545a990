"""Shadow prices: what each binding limit costs, computed from the solver's multipliers and said in words.

At the optimum of ``min f(w) + kappa |w - w0|_1`` under budget, turnover, groups and upper bounds the multiplier of a
limit is the fall of the objective per unit by which the limit is loosened (Boyd and Vandenberghe 2004, section 5.6.3).
Solvers split the multiplier of an upper bound arbitrarily where a bound and a kink of |w - w0| coincide, so the price
of an upper bound is taken from the stationarity condition of growing, not from the solver: it is then the one-sided
derivative that a reader expects.
"""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from strategies.limits import VERIFY_TOLERANCE, Limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRICE_MIN = 1e-9
"""Smaller prices, in objective per unit of weight, are the solver's tolerance and are left out."""
PERCENT = 0.01
BPS = 1e-4


class Duals(msgspec.Struct, frozen=True):
    """Multipliers of one solution, in objective per unit of weight.

    ``gradient`` (n_assets,) is that of the smooth part f at the solution; ``budget`` and ``turnover`` scalars,
    ``groups`` (n_groups,). A negative budget means that being invested costs (full investment is wanted).
    """

    gradient: "NDArray[np.float64]"
    budget: float = 0.0
    turnover: float = 0.0
    groups: tuple[float, ...] = ()


class Price(msgspec.Struct, frozen=True):
    """The price of one limit.

    ``limit`` is ``max_weight``, ``cap``, ``frozen``, ``stopped``, ``budget``, ``turnover`` or ``group``; ``of`` the symbol or
    group, "" for a limit of the whole portfolio; ``value`` the gain of the objective per unit of weight by which the limit is
    loosened.
    """

    limit: str
    of: str
    value: float

    @property
    def name(self) -> str:
        """Return the key under which the price is recorded, such as ``max_weight:SOL/USDT``."""
        return f"{self.limit}:{self.of}" if self.of else self.limit


def upper_prices(
    duals: Duals,
    *,
    w: "NDArray[np.float64]",
    limits: Limits,
    kappa: float,
    group_of: "NDArray[np.intp] | None" = None,
) -> "NDArray[np.float64]":
    """Return what loosening each upper bound by one unit of weight brings (n_assets,), 0 where it does not bind.

    Growing asset i by one unit changes the objective by ``gradient_i``, plus kappa and the price of turnover when that
    is a purchase, minus kappa when it is a smaller sale, plus the prices of budget and group it uses up.

    Parameters
    ----------
    duals : multipliers at ``w``
    w : array (n_assets,), the solution
    limits : its bounds and current weights
    kappa : cost of trading one way, fraction of the amount
    group_of : array (n_assets,), index of each asset's group, -1 for none
    """
    buying = w >= limits.w0 - VERIFY_TOLERANCE
    change = duals.gradient + duals.budget + np.where(buying, kappa + duals.turnover, -kappa)
    if group_of is not None and duals.groups:
        change = change + np.where(group_of >= 0, np.array(duals.groups)[group_of], 0.0)
    binds = w >= limits.ub - VERIFY_TOLERANCE
    return np.where(binds, np.maximum(-change, 0.0), 0.0)


def prices(  # noqa: PLR0913 - one instance and how it is named
    duals: Duals,
    *,
    w: "NDArray[np.float64]",
    limits: Limits,
    kappa: float,
    max_weight: float,
    symbols: tuple[str, ...],
    frozen: "NDArray[np.bool_] | None" = None,
    group_of: "NDArray[np.intp] | None" = None,
    group_names: tuple[str, ...] = (),
) -> tuple[Price, ...]:
    """Return the price of every binding limit, dearest first.

    An upper bound is called ``stopped`` when it is zero, ``frozen`` when the asset may not grow (frozen, or above its cap
    already), ``max_weight`` when it is the configured one, ``cap`` when something else lowered it.

    Parameters
    ----------
    duals, w, limits, kappa, group_of : see ``upper_prices``
    max_weight : the configured largest weight
    symbols : names of the assets
    frozen : array (n_assets,) of bool
    group_names : names of the groups; positions when empty
    """
    found = [Price("budget", "", duals.budget), Price("turnover", "", duals.turnover)]
    names = group_names or tuple(str(i) for i in range(len(duals.groups)))
    found += [Price("group", name, value) for name, value in zip(names, duals.groups, strict=True)]
    upper = upper_prices(duals, w=w, limits=limits, kappa=kappa, group_of=group_of)
    for i in np.flatnonzero(upper > PRICE_MIN):
        at = int(i)
        found.append(Price(_why(limits, at, max_weight, frozen), symbols[at], float(upper[at])))
    kept = [one for one in found if abs(one.value) > PRICE_MIN]
    return tuple(sorted(kept, key=lambda one: (-abs(one.value), one.name)))


def _why(limits: Limits, at: int, max_weight: float, frozen: "NDArray[np.bool_] | None") -> str:
    """Name the reason of an upper bound."""
    bound, held = float(limits.ub[at]), float(limits.w0[at])
    if bound <= 0.0:
        return "stopped"
    if (frozen is not None and bool(frozen[at])) or bound <= held:
        return "frozen"
    return "max_weight" if bound >= max_weight else "cap"


def words(price: Price, *, risk_tolerance: float = 1.0, unit: str = "expected return") -> str:
    """Say a price as a sentence: ``max_weight on SOL/USDT cost 3.1 bps of expected return per 1 % of equity``.

    Parameters
    ----------
    price : one binding limit
    risk_tolerance : the factor g of the mean in the objective; the price is divided by it to be in units of return.
        1 for objectives that are in those units already
    unit : what the objective measures

    Raises
    ------
    ValueError
        When ``risk_tolerance`` is not positive: an objective without the mean has no price in returns.
    """
    if not risk_tolerance > 0.0:
        raise ValueError(f"risk_tolerance is {risk_tolerance!r}; a price in {unit} needs a positive one")
    bps = price.value / risk_tolerance * PERCENT / BPS
    on = f" on {price.of}" if price.of else ""
    verb = "cost" if price.value > 0.0 else "saved"
    return f"{price.limit}{on} {verb} {abs(bps):.3g} bps of {unit} per 1 % of equity"
