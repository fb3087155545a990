"""What stands beside a venue: the stamp on its orders' rows."""

from pathlib import Path

import msgspec
import pytest

from daemon.domain.events import Event, Submit, WorkerUp
from daemon.domain.orders import Approved
from daemon.edge import tables
from daemon.edge.ledger import LedgerConfig, SqlLedger
from daemon.edge.ledger_read import LedgerReader
from daemon.service.venues import stamping
from tests.edge.venue_kit import CLOCK, rig


@pytest.fixture
def config(tmp_path: Path) -> LedgerConfig:
    """Whose ledger it is."""
    return LedgerConfig(
        folder=tmp_path / "live",
        instance="test",
        mode="live",
        venue="binance",
        quote="USDT",
        account="k",
        lock_folder=tmp_path,
        config_hash="0123456789ab",
        code_version="9.9.9",
    )


async def test_t6_every_order_names_configuration_model_and_code(tmp_path: Path, config: LedgerConfig) -> None:
    """T6: after a new model is up, orders name the new one; those before keep theirs."""
    seen: list[Event] = []
    async with rig(tmp_path / "venue") as live:
        intents = [live.resting(), live.resting(), live.resting()]
    ledger = SqlLedger(config, clock=CLOCK)
    await ledger.open()
    observe = stamping(ledger, seen.append)
    for intent, model in zip(intents, ("", "lstm:first", "lstm:second"), strict=True):
        if model:
            observe(WorkerUp(model, 1, 2))
        submit = Submit(intent.decision, (Approved(intent, intent.ts_ns),), (), "{}")
        assert await ledger.commit(submit)
    await ledger.close()
    with LedgerReader(config.folder / "ballast.db") as reader:
        rows = reader.rows_of(tables.intents, "client_id", [one.client_id for one in intents], "ts_ns")

    stamps = {row["client_id"]: (row["config_hash"], row["model_hash"], row["code_version"]) for row in rows}
    assert [stamps[one.client_id] for one in intents] == [
        ("0123456789ab", "", "9.9.9"),
        ("0123456789ab", "lstm:first", "9.9.9"),
        ("0123456789ab", "lstm:second", "9.9.9"),
    ]
    assert [msgspec.structs.astuple(one)[0] for one in seen if isinstance(one, WorkerUp)] == [
        "lstm:first",
        "lstm:second",
    ]
