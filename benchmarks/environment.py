"""The environment the measurements run in: the peers, pinned, and LLMgine as it stands in this repository."""

import json
import subprocess
import sys
import venv
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
HOME = REPOSITORY / ".venv-bench"
PYTHON = HOME / "bin" / "python"
STAMP = HOME / "ready.txt"


def prepare() -> None:
    """Make the environment, unless it is there and up to date."""
    wanted = sys.version + REQUIREMENTS.read_text()
    # As an installer would: what is imported has been compiled.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(REPOSITORY / "src")], check=True)
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    print(f"Setting up {HOME.name} (once)…", file=sys.stderr)
    venv.create(HOME, clear=True, with_pip=True)
    pip("install", "--require-hashes", "--requirement", str(REQUIREMENTS))
    pip("install", "--no-build-isolation", "--no-deps", "--editable", str(REPOSITORY))
    STAMP.write_text(wanted)


def versions() -> dict[str, str]:
    """Return the version of every package in the environment."""
    listed = subprocess.run(
        [PYTHON, "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"],
        check=True,
        capture_output=True,
    )
    return {package["name"].lower(): package["version"] for package in json.loads(listed.stdout)}


def pip(*arguments: str) -> None:
    subprocess.run([PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)
