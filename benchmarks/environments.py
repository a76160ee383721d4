"""Environments of their own for peers whose packages must never enter the project's lock."""

import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "engine": ("chdb==3.7.2",),
    "quix": ("quixstreams==3.28.0", "clickhouse-connect>=1.12,<2"),
}


def python_of(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's environment, which is made when it is missing."""
    home = folder / peer
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        print(f"making the environment of {peer} (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, *PACKAGES[peer]], check=True)
        ready.touch()
    return python
