"""F9, I11: the daemon process is killed inside a pause that the exchange asked for, and started again at once."""

from tests.e2e.conftest import MakeDaemon
from tests.e2e.kit import Exchange, until

PAUSE_S = 12


def test_f9_i11_a_restart_inside_a_ban_sends_nothing(exchange: Exchange, make_daemon: MakeDaemon) -> None:
    """Not one request of any kind arrives before the ban is over; then the daemon recovers and trades."""
    daemon = make_daemon(exchange).start().wait_ready()
    rule = exchange.fault(
        "* /api/v3/*", "error", status=418, code=-1003, headers={"Retry-After": str(PAUSE_S)}, times=1
    )  # fmt: skip
    until(lambda: exchange.fired(rule), what="the ban", why=daemon.tail)
    banned_ns = exchange.now_ns()
    until(lambda: list((daemon.state_dir / "bans").glob("*.json")), what="the ban on file", why=daemon.tail)
    until(lambda: "rest_down" in daemon.api("status")["causes"], what="REST down", why=daemon.tail)
    daemon.kill9()
    daemon.start()
    until(lambda: daemon.events("venue_wants_quiet"), what="the ban on file", why=daemon.tail)
    daemon.wait_ready(PAUSE_S + 60.0)
    end_ns = banned_ns + (PAUSE_S - 1) * 10**9
    early = [f"{one['method']} {one['path']}" for one in exchange.requests(since_ns=banned_ns) if one["ns"] < end_ns]

    assert early == []
