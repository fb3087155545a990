"""What the examples share: checked parameters, usable prices, and weights brought inside what the view allows."""

from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import msgspec
import numpy as np

from daemon.domain.signal import NoDecision, NoReason, Targets, View
from strategies.limits import binding_names, limits_of, project
from strategies.params import OptimizerParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOSE = 3
Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
Bars = Annotated[int, msgspec.Meta(ge=2, le=100_000)]


class Sizing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters that every example has.

    ``invest`` is the largest sum of weights; keep it at or below 1 - risk.min_cash, or the difference is clipped.
    ``band`` is the no-trade band: an asset closer than this to its new weight keeps the old one (fraction of equity).
    """

    invest: Share = 0.95
    band: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.01


P = TypeVar("P", bound=Sizing)


class Closes(NamedTuple):
    """``values`` (n_assets, n_bars) > 0, oldest first, 1 throughout where not ``usable`` (n_assets,)."""

    values: "NDArray[np.float64]"
    usable: "NDArray[np.bool_]"


def read_params(params: dict[str, object], kind: type[P]) -> P:
    """Return ``[strategy_params]`` as a checked struct. Raises ValueError: the key, what is wrong, which keys there are."""
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        known = ", ".join(kind.__struct_fields__)
        raise ValueError(f"strategy_params{where.rstrip('`')}: {what}; known are {known}") from None


def closes_of(view: View, bars: int) -> Closes | NoDecision:
    """Return the last ``bars`` closes of every asset and which assets have them all; NoDecision while none has.

    An asset that is not listed yet, or was listed within the window, has NaN there and is not usable.
    """
    have = view.bars.shape[1]
    if have < bars:
        return NoDecision(NoReason.WARMING_UP, f"{have} of {bars} bars; feed.backfill_bars is how many are kept")
    closes = view.bars[:, -bars:, CLOSE]
    usable: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(closes) & (closes > 0.0), axis=1)
    if not bool(usable.any()):
        return NoDecision(NoReason.WARMING_UP, f"no asset has {bars} usable bars")
    return Closes(np.where(usable[:, None], closes, 1.0), usable)


def targets_of(
    view: View, wanted: "NDArray[np.float64]", usable: "NDArray[np.bool_]", *, sizing: Sizing, status: str
) -> Targets:
    """Return ``wanted`` (n_assets,) inside caps, cash and turnover; what is frozen or not usable never grows.

    An asset that is not usable keeps its weight: nothing is known about it, that it fell least of all.
    """
    w0 = np.maximum(np.array(view.weights, dtype=np.float64), 0.0)
    spendable = float(w0.sum()) + max(view.cash_weight, 0.0)
    limits = limits_of(
        OptimizerParams(
            max_weight=1.0, min_cash=0.0, max_gross=min(sizing.invest, spendable), turnover_max=view.turnover_left
        ),
        w0=w0,
        caps=np.array(view.caps, dtype=np.float64),
        frozen=np.array(view.frozen, dtype=np.bool_),
        turnover_left=view.turnover_left,
    )
    room = max(limits.budget - float(w0[~usable].sum()), 0.0)  # what is kept comes first, the rest shares what is left
    wanted = np.where(usable, wanted, 0.0) * min(1.0, room / max(float(wanted[usable].sum()), room, 1e-12))
    near = (np.abs(wanted - w0) < sizing.band) & (wanted > 0.0)  # a way out is never too small
    w = project(np.where(near | ~usable, w0, wanted), limits)
    return Targets(
        symbols=view.symbols,
        weights=tuple(w.tolist()),
        status=status,
        binding=binding_names(w, limits, view.symbols),
        turnover=float(np.abs(w - w0).sum()),
    )
