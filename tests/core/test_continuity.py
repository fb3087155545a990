"""Continuity: nothing twice, nothing missing, nothing absurd."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.core.continuity import ID_JUMP_MAX, Continuity, Irregular
from daemon.domain.market import RejectReason, Tick


def trade(number: int, price: float = 100.0) -> Tick:
    """Return a trade."""
    return Tick("BTC/USDT", number, price, 1, number, number, sell=False)


def started(next_id: int = 10, last_price: float = 100.0) -> Continuity:
    """Return a continuity that has begun."""
    continuity = Continuity("BTC/USDT")
    continuity.start(next_id, last_price)
    return continuity


def ids(outcome: Irregular | None) -> list[int]:
    """Return the ids released by an outcome."""
    assert outcome is not None
    return [tick.id for tick in outcome.ready]


def reasons(outcome: Irregular | None) -> list[RejectReason]:
    """Return why things were rejected."""
    assert outcome is not None
    return [one.reason for one in outcome.rejected]


def test_in_order_is_the_quiet_path() -> None:
    """Ticks that follow each other need nothing."""
    continuity = started()
    assert [continuity.accept(trade(number)) for number in range(10, 20)] == [None] * 10
    assert continuity.next_id == 20


def test_ticks_wait_for_the_start() -> None:
    """Live ticks before the history are held, then released from where the history ends, known ones dropped."""
    continuity = Continuity("BTC/USDT")
    for number in (8, 9, 11, 10):
        assert ids(continuity.accept(trade(number))) == []
    outcome = continuity.start(9, 100.0)

    assert ids(outcome) == [9, 10, 11]
    assert (continuity.next_id, continuity.duplicates) == (12, 0)


def test_start_with_whatever_comes() -> None:
    """Without a known id the first tick begins."""
    continuity = Continuity("BTC/USDT")
    assert continuity.start(-1) == Irregular()
    assert continuity.accept(trade(77)) is None
    assert continuity.next_id == 78


def test_start_finds_the_hole_between_history_and_stream() -> None:
    """When the stream begins later than the history ends, the missing ids are asked for."""
    continuity = Continuity("BTC/USDT")
    continuity.accept(trade(15))
    assert continuity.start(12, 100.0).fetch == (12, 14)


def test_duplicates_are_dropped_and_counted() -> None:
    """F20: a replayed trade is refused by name."""
    continuity = started()
    continuity.accept(trade(10))
    assert reasons(continuity.accept(trade(10))) == [RejectReason.DUPLICATE_ID]
    assert continuity.duplicates == 1


def test_gap_holds_until_repaired() -> None:
    """F19: behind a gap nothing is released; the repair comes first, in order."""
    continuity = started()
    outcome = continuity.accept(trade(13))
    assert outcome is not None
    assert (outcome.fetch, continuity.gap) == ((10, 12), (10, 12))
    assert ids(continuity.accept(trade(14))) == []
    assert reasons(continuity.accept(trade(14))) == [RejectReason.DUPLICATE_ID]
    repaired = continuity.repaired((trade(9), trade(10), trade(11), trade(12)))

    assert ids(repaired) == [10, 11, 12, 13, 14]
    assert repaired.repaired == 3
    assert continuity.gap is None
    assert continuity.accept(trade(15)) is None


def test_out_of_order_heals_itself() -> None:
    """F21: a trade that comes a little late fills its own gap."""
    continuity = started()
    continuity.accept(trade(11))
    assert ids(continuity.accept(trade(10))) == [10, 11]
    assert ids(continuity.repaired((trade(10),))) == []


def test_second_gap_is_asked_for_by_itself() -> None:
    """Each gap is fetched once; releasing stops at the next."""
    continuity = started()
    continuity.accept(trade(12))
    second = continuity.accept(trade(15))
    assert second is not None
    assert second.fetch == (13, 14)
    assert ids(continuity.repaired((trade(10), trade(11)))) == [10, 11, 12]
    assert continuity.gap == (13, 14)
    assert ids(continuity.accept(trade(12))) == []


def test_giving_up_names_what_is_lost() -> None:
    """Ids REST does not have are declared lost, and the stream goes on behind them."""
    continuity = started()
    continuity.accept(trade(13))
    assert ids(continuity.repaired((trade(10),))) == [10]
    outcome = continuity.give_up()

    assert outcome.lost == (11, 12)
    assert ids(outcome) == [13]
    assert continuity.lost == 2
    assert continuity.give_up() == Irregular()


def test_holding_is_bounded() -> None:
    """Too many ticks behind a gap: it is given up rather than memory."""
    continuity = Continuity("BTC/USDT", hold_max=3)
    continuity.start(10, 100.0)
    for number in (12, 13, 14):
        continuity.accept(trade(number))
    outcome = continuity.accept(trade(15))

    assert outcome is not None
    assert outcome.lost == (10, 11)
    assert ids(outcome) == [12, 13, 14, 15]
    waiting = Continuity("BTC/USDT", hold_max=3)
    for number in range(10):
        waiting.accept(trade(number))
    assert waiting.held == 3


def test_spike_is_quarantined_and_asked_for() -> None:
    """F24: one absurd price never gets through; its id is then missing and REST is asked what it really was."""
    continuity = started()
    assert reasons(continuity.accept(trade(10, 100_000.0))) == [RejectReason.PRICE_SPIKE]
    outcome = continuity.accept(trade(11))
    assert outcome is not None
    assert outcome.fetch == (10, 10)
    assert ids(continuity.repaired((trade(10, 101.0),))) == [10, 11]
    assert continuity.spikes == 1


def test_spike_that_rest_confirms_is_believed() -> None:
    """Stream and REST say the same price: it happened."""
    continuity = started()
    continuity.accept(trade(10, 1000.0))
    continuity.accept(trade(11))
    assert ids(continuity.repaired((trade(10, 1000.0),))) == [10, 11]


def test_spike_of_rest_alone_is_not_believed() -> None:
    """A price only REST has seen, absurdly far away, stays out; the id is then given up."""
    continuity = started()
    continuity.accept(trade(11))
    outcome = continuity.repaired((trade(10, 1000.0),))
    assert reasons(outcome) == [RejectReason.PRICE_SPIKE]
    assert ids(outcome) == []
    assert ids(continuity.give_up()) == [11]


def test_three_agreeing_ticks_are_the_market() -> None:
    """A real crash is believed with its third tick, and none of the three is lost."""
    continuity = started()
    assert ids(continuity.accept(trade(10, 10.0))) == []
    assert ids(continuity.accept(trade(11, 11.0))) == []
    assert ids(continuity.accept(trade(12, 10.5))) == [10, 11, 12]
    assert continuity.accept(trade(13, 10.4)) is None


def test_agreement_holds_across_an_open_gap() -> None:
    """Suspects behind a gap are believed among themselves, but still wait for what is missing before them."""
    continuity = started()
    continuity.accept(trade(12))
    for number in (20, 21):
        assert ids(continuity.accept(trade(number, 10.0))) == []
    outcome = continuity.accept(trade(22, 10.0))
    assert outcome is not None
    assert (ids(outcome), outcome.fetch) == ([], (13, 19))
    assert continuity.gap == (10, 11)


def test_suspects_that_disagree_start_over() -> None:
    """Two different absurdities do not confirm each other; a repeat of a suspect is a duplicate."""
    continuity = started()
    continuity.accept(trade(10, 1e6))
    assert reasons(continuity.accept(trade(10, 1e6))) == [RejectReason.DUPLICATE_ID]
    assert reasons(continuity.accept(trade(11, 1e-6))) == [RejectReason.PRICE_SPIKE]
    outcome = continuity.accept(trade(12))
    assert outcome is not None
    assert outcome.fetch == (10, 11)


def test_absurd_id_does_not_capture_the_stream() -> None:
    """An id from nowhere is refused; were it the new numbering, three in a row prove it."""
    continuity = started()
    far = 10 + ID_JUMP_MAX + 5
    assert reasons(continuity.accept(trade(far))) == [RejectReason.OUT_OF_ORDER]
    assert continuity.accept(trade(10)) is None
    continuity.accept(trade(far))
    continuity.accept(trade(far + 1))
    outcome = continuity.accept(trade(far + 2))
    assert outcome is not None
    assert outcome.lost == (11, far - 1)
    assert ids(outcome) == [far, far + 1, far + 2]


def test_quiet_symbol_is_confirmed_or_fetched() -> None:
    """REST's newest id says whether silence was real."""
    continuity = started()
    assert continuity.confirm(9) is None
    outcome = continuity.confirm(12)
    assert outcome is not None
    assert outcome.fetch == (10, 12)
    assert ids(continuity.repaired((trade(10), trade(11), trade(12)))) == [10, 11, 12]


@given(st.permutations(range(10, 26)), st.sets(st.integers(10, 25)))
def test_every_id_comes_out_once_and_in_order(order: list[int], dropped: set[int]) -> None:
    """Whatever the order and whatever is dropped and repaired, each id is released exactly once, ascending."""
    continuity = started()
    seen: list[int] = []
    for number in order:
        if number in dropped:
            continue
        outcome = continuity.accept(trade(number))
        seen.extend([number] if outcome is None else ids(outcome))
    seen.extend(ids(continuity.repaired(tuple(trade(number) for number in range(10, 26)))))

    assert seen == list(range(10, 26))
