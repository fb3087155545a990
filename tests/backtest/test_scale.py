"""Work spread over processes: the same answers as in one, whatever happens to the processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemon.backtest.scale import RETRIES, Spread, WorkersDie, crew_of, in_order
from daemon.domain.errors import ConfigError, Unreachable, UsageError

REPO = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


def scaled(shared: int, item: int) -> int:
    """Work that is easy to check."""
    return shared * item


def size_of(shared: bytes, item: int) -> int:
    """Need all that is shared."""
    return len(shared) + item


def where_done(_shared: None, _item: int) -> int:
    """Say which process did it."""
    return os.getpid()


def fragile(folder: str, item: int) -> int:
    """Die at the first attempt of each piece, as under the out-of-memory killer."""
    mark = Path(folder) / str(item)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def deadly(_shared: None, item: int) -> int:
    """Die over one piece, always."""
    if item == 2:
        os._exit(9)
    return item


def failing(_shared: None, item: int) -> int:
    """Raise one of ours, or one of anybody's."""
    if item == 1:
        raise ConfigError("risk.max_weight = 2: too much")
    raise KeyError("what")


def endless(folder: str, item: int) -> int:
    """Leave the process id and never end; below 0 there is nothing to do."""
    if item < 0:
        return item
    (Path(folder) / f"{item}.tmp").write_text(str(os.getpid()))
    (Path(folder) / f"{item}.tmp").replace(Path(folder) / f"{item}.pid")
    while True:
        time.sleep(1)


def _gone(pid: int) -> bool:
    """Say whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _await_end(pids: list[int]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not all(_gone(pid) for pid in pids):
        assert time.monotonic() < deadline, f"{pids} live on"
        time.sleep(0.02)


def _written(folder: Path, count: int, deadline_s: float = DEADLINE_S) -> list[int]:
    """Wait for the ids of so many workers."""
    deadline = time.monotonic() + deadline_s
    while len(files := sorted(folder.glob("*.pid"))) < count:
        assert time.monotonic() < deadline, "the workers did not begin"
        time.sleep(0.02)
    return [int(file.read_text()) for file in files]


@pytest.mark.parametrize("jobs", [1, 3])
def test_answers_in_the_order_of_the_items(jobs: int) -> None:
    """One process or three: the same list."""
    with crew_of(Spread(jobs=jobs), scaled, 7) as crew:
        assert in_order(crew, range(20)) == [7 * item for item in range(20)]
        assert in_order(crew, []) == []


def test_one_job_is_this_process_and_more_are_others() -> None:
    """`--jobs 1` starts nothing; two jobs are at most two other processes."""
    with crew_of(Spread(jobs=1), where_done, None) as crew:
        assert set(in_order(crew, range(3))) == {os.getpid()}
    with crew_of(Spread(jobs=2), where_done, None) as crew:
        pids = set(in_order(crew, range(8)))
    assert os.getpid() not in pids
    assert len(pids) <= 2
    _await_end(list(pids))


def test_a_piece_whose_worker_was_killed_is_done_again(tmp_path: Path) -> None:
    """Every piece kills its first worker; every answer comes all the same."""
    with crew_of(Spread(jobs=2), fragile, str(tmp_path)) as crew:
        assert in_order(crew, range(5)) == [0, 1, 4, 9, 16]


def test_a_piece_that_kills_every_worker_ends_the_run() -> None:
    """After `RETRIES` replacements the error says what happened and what to try; the workers are gone."""
    died = rf"died {RETRIES + 1} times .*exit code 9.*fewer --jobs"
    with pytest.raises(WorkersDie, match=died), crew_of(Spread(jobs=2), deadly, None) as crew:
        in_order(crew, range(4))


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_the_work_raises_arrives(jobs: int) -> None:
    """Ours as it is; anybody's too, with its words."""
    with crew_of(Spread(jobs=jobs), failing, None) as crew:
        crew.submit(0, 1)
        with pytest.raises(ConfigError, match="too much"):
            crew.take()
        crew.submit(0, 0)
        with pytest.raises((KeyError, RuntimeError), match="what"):
            crew.take()


@pytest.mark.parametrize("jobs", [1, 2])
def test_taking_what_was_never_submitted(jobs: int) -> None:
    """Waiting for nothing would last for ever: it is an error."""
    with crew_of(Spread(jobs=jobs), scaled, 1) as crew, pytest.raises(IndexError):
        crew.take()


def test_what_is_shared_may_be_larger_than_a_pipe() -> None:
    """All workers start at once, though each is handed more than a pipe holds."""
    with crew_of(Spread(jobs=3), size_of, bytes(5_000_000)) as crew:
        assert in_order(crew, range(6)) == [5_000_000 + item for item in range(6)]


def test_closing_kills_what_still_works(tmp_path: Path) -> None:
    """Workers in the middle of something end with the block, at once."""
    with crew_of(Spread(jobs=3), endless, str(tmp_path)) as crew:
        for tag in range(3):
            crew.submit(tag, 1 - tag)
        assert crew.take() == (2, -1)
        pids = _written(tmp_path, 2)
    _await_end(pids)


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    """A SIGKILL of the command leaves no process behind that computes for nobody."""
    program = (
        "import sys; from daemon.backtest.scale import *; from test_scale import endless\n"
        "if __name__ == '__main__':\n"
        "    with crew_of(Spread(jobs=2), endless, sys.argv[1]) as crew:\n"
        "        crew.submit(0, 0); crew.submit(1, 1); crew.take()\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(f"import sys\nsys.path[:0] = [{str(REPO)!r}, {str(Path(__file__).parent)!r}]\n{program}")
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], cwd=REPO)
    try:
        pids = _written(tmp_path, 2)
    finally:
        parent.kill()
        parent.wait()
    _await_end(pids)


def test_no_ray_unless_asked_for() -> None:
    """Local work never loads Ray."""
    program = (
        "import sys; from daemon.backtest.scale import *\n"
        "with crew_of(Spread(jobs=1), max, 3) as crew: print(in_order(crew, [4]), 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["[4]", "False"]


@pytest.mark.parametrize(
    ("spread", "error", "words"),
    [
        (Spread(jobs=0), UsageError, "--jobs 0"),
        (Spread(ray="nonsense"), UsageError, "HOST:PORT"),
        (Spread(ray="127.0.0.1:1"), Unreachable, "127.0.0.1:1: no cluster answers"),
    ],
)
def test_where_no_work_can_go(spread: Spread, error: type[Exception], words: str) -> None:
    """An impossible place is one line, before anything is computed."""
    with pytest.raises(error, match=words), crew_of(spread, scaled, 1):
        pytest.fail("there are workers where none can be")
