"""All faults of the simulation by name and weight; the names are those of FAULTS section 4."""

from typing import Final

from daemon.exchange.faults import Action
from tests.sim import faults_venue as venue
from tests.sim import faults_world as world
from tests.sim.chaos import Choice

FAULTS: Final[tuple[Choice, ...]] = (
    ("F1", 2, venue.order_fault("F1", Action.DROP)),
    ("F2", 2, venue.order_fault("F2", Action.HANG_AFTER)),
    ("F3", 2, venue.order_fault("F3", Action.CUT_AFTER)),
    ("F3b", 1, venue.order_fault("F3 before", Action.CUT)),
    ("F4", 2, venue.order_fault("F4", Action.TRUNCATE)),
    ("F5", 2, venue.spoiled),
    ("F6", 1, venue.order_fault("F6", Action.SLOW, seconds=30.0)),
    ("F7", 2, venue.order_fault("F7", Action.LATE)),
    ("F8", 2, venue.outage),
    ("F9", 2, venue.busy),
    ("F11", 1, world.refuse),
    ("F12", 2, world.freeze),
    ("F13", 2, world.cut),
    ("F13c", 1, venue.frame_fault("F13", "frame *", (Action.CLOSE,), times=1)),
    ("F14", 1, world.redial),
    ("F16", 2, world.partition),
    ("F17", 1, world.slow),
    ("F19", 1, venue.frame_fault("F19", "frame *@aggTrade", (Action.SKIP,))),
    ("F20", 1, venue.frame_fault("F20", "frame *@aggTrade", (Action.DUPLICATE,))),
    ("F21", 1, venue.frame_fault("F21", "frame *@aggTrade", (Action.REORDER,))),
    ("F22", 1, venue.frame_fault("F22", "frame *", (Action.HOLD, Action.DELAY), times=1)),
    ("F23", 1, venue.frame_fault("F23", "frame *", (Action.STALL, Action.FREEZE), times=1)),
    ("F24", 1, venue.poison),
    ("F26", 1, world.halted),
    ("F28", 1, venue.garbage),
    ("F30", 2, venue.order_fault("F30", Action.DELAY_AFTER)),
    ("F30u", 1, venue.frame_fault("F30", "user *", (Action.REORDER,))),
    ("F31", 1, venue.frame_fault("F31", "user executionReport", (Action.DUPLICATE,))),
    ("F32", 2, venue.frame_fault("F32", "user executionReport", (Action.SKIP,))),
    (
        "F12u",
        1,
        venue.frame_fault("F12", "user *", (Action.STALL, Action.FREEZE, Action.HOLD, Action.CORRUPT), times=1),
    ),
    ("F33", 2, venue.hidden),
    ("F34", 1, venue.omitted),
    ("F36", 1, venue.cancel_fault),
    ("F38", 1, world.stranger),
    ("F38h", 0.7, world.by_hand),
    ("F39", 1, world.ended),
    ("F40", 1, world.fees),
    ("F42", 1, world.crash),
    ("F43", 2, world.kill9),
    ("F47", 1, world.wall),
    ("F48", 1, world.spoilt),
    ("F49", 1, world.slow_disk),
    ("F52", 1, world.blocked),
    ("worker", 0.5, world.worker_dies),
    ("codes", 2, venue.uncertain),
    ("refusals", 1, venue.definite),
    ("kill", 0.7, world.kill_switch),
)
