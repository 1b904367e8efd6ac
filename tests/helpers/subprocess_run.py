"""Scripts in processes of their own, and waiting for what they do."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def run_script(path: Path, *arguments: object) -> None:
    """Runs a script on one thread to its end; it finds what tests import."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(path), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[bytes] | None = None, seconds: float = 120
) -> None:
    """Waits until something is so; fails if the process that brings it about ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, "it was over before it could be killed"
        time.sleep(0.005)
