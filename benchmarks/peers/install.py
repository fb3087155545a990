"""Environments of their own for the engines we are compared with, made by pip under ``.bench/peers`` on first use.

A folder is named after the peer and the hash of what is installed into it, so a changed pin makes a new one; it counts as
made only when the stamp inside it is written, so an interrupted installation is begun again. Nothing of ours goes into it.
``python -m benchmarks.peers.install [name …]`` makes them ahead of time.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
CACHE: Final = REPOSITORY / ".bench" / "peers"
TORCH: Final = "torch==2.13.0"
"""A constraint, not a wish: whatever asks for torch gets this one and none of its CUDA packages by way of another version."""
PINS: Final[dict[str, tuple[str, ...]]] = {
    "nautilus_trader": ("nautilus_trader==1.221.0",),
    "freqtrade": ("freqtrade==2026.9",),
    "jesse": ("jesse==3.5.3",),
    "cvxportfolio": ("cvxportfolio==1.5.1",),
}
STAMP: Final = "installed.json"
INSTALL_S_MAX: Final = 1800.0
"""Longest installation of one peer, s."""
LOW_PRIORITY: Final = ("nice", "-n", "15")


@dataclass(frozen=True)
class Installed:
    """A peer that can be run: ``python`` is its interpreter, ``version`` what pip says of the first requirement."""

    name: str
    python: Path
    version: str


@dataclass(frozen=True)
class Absent:
    """A peer that cannot be run, and why, in one line."""

    name: str
    why: str


Peer = Installed | Absent


def folder_of(name: str, cache: Path = CACHE) -> Path:
    """Return where the environment of a peer belongs: it changes with the pins and with our Python."""
    recipe = json.dumps([PINS[name], TORCH, sys.version_info[:3]])
    return cache / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def environment(name: str, *, cache: Path = CACHE) -> Peer:
    """Return the peer, installed now when it is not yet; a failure is an answer, never an exception."""
    folder = folder_of(name, cache)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(cache / f"{folder.name}.lock"):
            if not (folder / STAMP).is_file():
                _make(folder, PINS[name])
            return Installed(name, folder / "bin" / "python", json.loads((folder / STAMP).read_text())["version"])
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        return Absent(name, _one_line(error))


def _make(folder: Path, requirements: tuple[str, ...]) -> None:
    print(f"installing {', '.join(requirements)} into {folder} (a minute or two)", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(f"{TORCH}\n")
    python = str(folder / "bin" / "python")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--no-input")
    _call(*LOW_PRIORITY, *pip, "install", "--quiet", "-c", str(constraints), *requirements)
    distribution = requirements[0].partition("==")[0]
    version = _call(python, "-c", f"import importlib.metadata as m; print(m.version({distribution!r}))").strip()
    (folder / STAMP).write_text(json.dumps({"requirements": requirements, "version": version}) + "\n")


def _call(*command: str) -> str:
    """Run a command that must succeed; its last line of complaint is the error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S_MAX, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")]
        raise ValueError((errors or said or [f"ended with code {done.returncode}"])[-1])
    return done.stdout


def _one_line(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the installation took longer than {INSTALL_S_MAX:.0f} s"
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock file: two benchmarks started together must not install into one folder."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(argv: Sequence[str] | None = None) -> int:
    names = list(argv if argv is not None else sys.argv[1:]) or list(PINS)
    unknown = [name for name in names if name not in PINS]
    if unknown:
        print(f"unknown peer {', '.join(unknown)}; there are {', '.join(PINS)}", file=sys.stderr)
        return 2
    found = [environment(name) for name in names]
    for one in found:
        print(
            f"{one.name} {one.version}: {one.python}"
            if isinstance(one, Installed)
            else f"{one.name}: not installed: {one.why}"
        )
    return 1 if any(isinstance(one, Absent) for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
