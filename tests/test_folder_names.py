"""Folder names that a part cannot open are refused, and others are written so that every part finds them."""

import re
from pathlib import Path

import pytest

from deploy.embedded.stack import Stack
from runtime.errors import TallyError
from runtime.settings import Settings

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["line\nbreak", "bell\x07", "no utf-8 \udce9"])
def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(TallyError, match="control characters, or is not UTF-8") as raised:
        Stack(Settings(data_dir=tmp_path / name)).__enter__()
    assert ascii(name)[1:-1] in ascii(str(raised.value)).replace("\\\\", "\\")


@pytest.mark.parametrize(
    "path", ["Makefile", "docker-compose.yml", "deploy/images/Dockerfile", *ROOT.glob("deploy/k8s/*.yaml")], ids=str
)
def test_no_module_is_run_with_the_working_directory_first(path: str | Path) -> None:
    """With -P a folder `schemas/` beside the Makefile, or in the container, is not imported."""
    text = re.sub(r"[\"',\[\]]+", " ", (ROOT / path).read_text())
    runs = re.findall(r"python\S*\s+((?:-\w+\s+)*)-m\s+(\S+)", text)
    assert not [module for options, module in runs if "-P" not in options and module != "venv"]
