"""A study on a real Ray cluster that loses a node in the middle ends as the study without Ray."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from daemon.backtest.data.files import Candles, path_of, write
from tests.absent import absent

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DEADLINE_S = 240.0
STORE_BYTES = 80_000_000
"""The smallest object store Ray accepts is 75 MB."""
HOUR_MS = 3_600_000
T0_MS = 1_672_531_200_000
BARS = 260
PAIRS = ("AAA/USDT", "BBB/USDT")
TRIALS = 12
HELD_MARKS = 10
"""Runs of the first batch, four trials on two folds, and one held up on each node."""

REMEDY = "Ray is not installed: pip install 'ballast[ray]'"

CONFIG = """
universe = ["AAA/USDT", "BBB/USDT"]
strategy = "held_momentum:HeldMomentum"
[forecast]
horizon_bars = 4
"""
SPACE = """
[strategy_params.lookback]
low = 12
high = 48
step = 4
[risk.max_weight]
low = 0.1
high = 0.6
"""
STRATEGY = '''
"""Momentum that can be held up, so a node is killed while it surely works. Its decisions are those of momentum."""

import os
import time
from pathlib import Path

from strategies.examples.momentum import Momentum

HERE = Path(__file__).parent
FREE = 9


class HeldMomentum(Momentum):
    """Leaves a mark at the first decision of each run; from the ninth mark on it waits as long as there is a file."""

    def __init__(self):
        """Forget which run this is."""
        self._marked = False

    def decide(self, view, params):
        """Decide as momentum does."""
        if not self._marked:
            self._marked = True
            (HERE / "marks" / f"{os.getpid()}-{time.monotonic_ns()}").touch()
            while len(os.listdir(HERE / "marks")) >= FREE and (HERE / "hold").exists():
                time.sleep(0.02)
        return super().decide(view, params)
'''


class Cluster:
    """A head without CPUs and nodes with some, each node's processes a session of their own, all on loopback."""

    def __init__(self) -> None:
        # Unix sockets lie deep inside, and their paths may have 107 bytes: the folder's own must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="br", dir="/tmp"))
        self._nodes: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.2", 0)) as taken:
            self._port = int(taken.getsockname()[1])
        self.address = f"127.0.0.2:{self._port}"

    def start(self) -> None:
        """Start the head."""
        head = ("--head", f"--port={self._port}", "--num-cpus=0", "--include-dashboard=false", "--disable-usage-stats")
        self._node("127.0.0.2", *head, f"--temp-dir={self.folder}")

    def join(self, number: int) -> subprocess.Popen[bytes]:
        """Start one more node with one CPU."""
        return self._node(f"127.0.0.{number}", f"--address={self.address}", "--num-cpus=1")

    def _node(self, ip: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a node and wait until it is up; Ray gives up after 30 s, which a crowded machine may take: again then."""
        command = [str(BIN / "ray"), "start", "--block", f"--node-ip-address={ip}", *options]
        deadline = time.monotonic() + DEADLINE_S
        while True:
            log = self.folder / f"node-{len(self._nodes)}.log"
            with log.open("wb") as file:
                node = subprocess.Popen(
                    [*command, f"--object-store-memory={STORE_BYTES}"],
                    cwd=REPO,
                    stdout=file,
                    stderr=file,
                    env=self.environment(),
                    start_new_session=True,
                )
            self._nodes.append(node)
            while node.poll() is None:
                assert time.monotonic() < deadline, self.logs()
                if "Ray runtime started" in log.read_text(errors="replace"):
                    return node
                time.sleep(0.1)
            self.kill(node)
            assert time.monotonic() < deadline, self.logs()

    def environment(self) -> dict[str, str]:
        """Everything Ray writes goes into the folder, nothing is reported to anybody."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BALLAST_"))},
            "HOME": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self.folder),
        }

    def logs(self) -> str:
        """What the nodes said last."""
        return "\n".join(log.read_text(errors="replace")[-2_000:] for log in sorted(self.folder.glob("node-*.log")))

    @staticmethod
    def kill(node: subprocess.Popen[bytes]) -> None:
        """End every process of a node at once, as when its machine loses power."""
        for pid in _session(node.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        """End whatever is left and remove the folder."""
        deadline = time.monotonic() + DEADLINE_S
        for node in self._nodes:
            while _session(node.pid):
                self.kill(node)
                assert time.monotonic() < deadline, "processes of Ray outlive SIGKILL"
        shutil.rmtree(self.folder, ignore_errors=True)


def _session(leader: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX" and int(fields[3]) == leader:
                found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module", autouse=True)
def ray() -> None:
    """Ask for Ray once, before anything is started: no test here says something without it."""
    if not (BIN / "ray").exists():
        absent(REMEDY)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster whose every process ends with the tests, however they end."""
    made = Cluster()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """A folder with candles, a configuration, a search space and a strategy of the user's own."""
    rng = np.random.default_rng(11)
    times = T0_MS + HOUR_MS * np.arange(BARS, dtype=np.int64)
    for pair in PAIRS:
        close = np.round(100.0 * np.exp(np.cumsum(rng.normal(0.0003, 0.01, BARS))), 2)
        opened = np.concatenate(([100.0], close[:-1]))
        high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
        values = np.column_stack([opened, high, low, close, np.full(BARS, 1e6)])
        write(path_of(tmp_path / "data", pair, "1h"), Candles(times, values))
    (tmp_path / "ballast.toml").write_text(CONFIG)
    (tmp_path / "space.toml").write_text(SPACE)
    (tmp_path / "held_momentum.py").write_text(STRATEGY)
    (tmp_path / "marks").mkdir()
    return tmp_path


def _tune(ground: Path, out: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "daemon", "tune", "-c", str(ground / "ballast.toml")]
    command += ["--space", str(ground / "space.toml"), "--data", str(ground / "data"), "--trials", str(TRIALS)]
    return [*command, "--folds", "2", "--batch", "4", "--out", str(ground / out), *options]


@pytest.mark.timeout(900)
def test_a_node_is_lost_in_the_middle_of_a_study(cluster: Cluster, ground: Path) -> None:
    """Two worker nodes, one killed while both work: the study ends, and its result is that of one process without Ray."""
    nodes = [cluster.join(3), cluster.join(4)]
    (ground / "hold").touch()
    log = ground / "ray.log"
    with log.open("wb") as file:
        study = subprocess.Popen(
            _tune(ground, "ray", "--ray", cluster.address),
            cwd=REPO,
            stdout=file,
            stderr=file,
            env=cluster.environment(),
        )
    try:
        victim = _working_node(ground, nodes, study, log, cluster)
        cluster.kill(victim)
        (ground / "hold").unlink()
        assert study.wait(DEADLINE_S) == 0, log.read_text() + cluster.logs()
    finally:
        study.kill()
        study.wait()
    begun = len(list((ground / "marks").iterdir()))
    alone = subprocess.run(
        _tune(ground, "alone", "--jobs", "1"), cwd=REPO, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )

    assert alone.returncode == 0, alone.stderr
    assert "Ray: " in log.read_text()
    assert (ground / "ray" / "study.json").read_bytes() == (ground / "alone" / "study.json").read_bytes()
    assert begun > len(list((ground / "marks").iterdir())) - begun  # what the lost node was doing was done again


def _working_node(
    ground: Path,
    nodes: list[subprocess.Popen[bytes]],
    study: subprocess.Popen[bytes],
    log: Path,
    cluster: Cluster,
) -> subprocess.Popen[bytes]:
    """Wait until the first batch is over and the second is held up on both nodes; return the node that began last."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert study.poll() is None, f"the study ended before a node was lost\n{log.read_text()}"
        assert time.monotonic() < deadline, log.read_text() + cluster.logs()
        marks = sorted((mark.name.partition("-") for mark in (ground / "marks").iterdir()), key=lambda one: int(one[2]))
        if len(marks) >= HELD_MARKS:
            return next(node for node in nodes if int(marks[-1][0]) in _session(node.pid))
        time.sleep(0.05)


PROGRAM = """
import sys
from daemon.backtest.scale import Spread, crew_of, in_order
from daemon.domain.errors import Fatal
from tests.backtest import test_scale as works

with crew_of(Spread(ray=sys.argv[1], jobs=2), works.scaled, 7) as crew:
    print("where", crew.where)
    print("answers", in_order(crew, range(6)))
with crew_of(Spread(ray=sys.argv[1], jobs=2), works.failing, None) as crew:
    crew.submit(0, 1)
    try:
        crew.take()
    except Fatal as error:
        print("raised", type(error).__name__, error)
with crew_of(Spread(ray=sys.argv[1], jobs=2), works.deadly, None) as crew:
    try:
        in_order(crew, [1, 2])
    except Fatal as error:
        print("died", type(error).__name__, error)
print("nothing", in_order(crew, []))
"""


def _said(environment: dict[str, str], ray: str, *, before: str = "") -> dict[str, str]:
    """Run the program above and return what it said, by its first word."""
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{PROGRAM}", ray],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {word: rest for word, _, rest in (line.partition(" ") for line in done.stdout.splitlines())}


@pytest.mark.timeout(900)
def test_auto_uses_the_cluster_that_the_environment_names(cluster: Cluster) -> None:
    """Answers, exceptions and deaths are those of local processes."""
    cluster.join(5)
    said = _said({**cluster.environment(), "RAY_ADDRESS": cluster.address}, "auto")

    assert said["where"].startswith("Ray: ")
    assert said["answers"] == "[0, 7, 14, 21, 28, 35]"
    assert said["raised"] == "ConfigError risk.max_weight = 2: too much"
    assert said["died"].startswith("WorkersDie a Ray worker died 4 times")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "hidden",
    [
        "import sys; sys.modules['ray'] = None",  # what an import finds that was never installed
        # no cluster among the processes
        "import functools, ray._private.services as own; own.find_gcs_addresses = functools.lru_cache(set)",
    ],
)
def test_auto_without_a_cluster_works_here(tmp_path: Path, hidden: str) -> None:
    """No Ray, or no cluster that runs: local processes, the same answers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    said = _said({**environment, "HOME": str(tmp_path), "RAY_TMPDIR": str(tmp_path)}, "auto", before=hidden)

    assert said["where"] == "2 local processes"
    assert said["answers"] == "[0, 7, 14, 21, 28, 35]"
    assert said["raised"] == "ConfigError risk.max_weight = 2: too much"
    assert said["died"].startswith("WorkersDie a worker process died 4 times")
