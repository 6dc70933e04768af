"""Programs in Python's development mode, where what is wrong is said on standard error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

__all__ = ["run_in_dev_mode"]

_SLOW = re.compile(r"^Executing <.*> took \d+\.\d+ seconds\n", re.MULTILINE)


def run_in_dev_mode(
    *arguments: str | Path, cwd: Path | None = None, timeout: float = 100
) -> subprocess.CompletedProcess[str]:
    """Run Python. That a step took long, which says how busy the machine is, is left out of standard error."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    done.stderr = _SLOW.sub("", done.stderr)
    return done
