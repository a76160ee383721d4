"""Separate environments for peers, whose packages must not enter the project's lock files."""

import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "engine": ("chdb==3.7.2",),
    "quix": ("quixstreams==3.28.0", "clickhouse-connect>=1.12,<2"),
}


def python_of(peer: str, folder: Path) -> Path:
    """Return the interpreter of a peer's environment, which is created if missing."""
    home = folder / peer
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        print(f"creating the environment of {peer} (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, *PACKAGES[peer]], check=True)
        ready.touch()
    return python
