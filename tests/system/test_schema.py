"""The published schema against a running API: Schemathesis, as a process, makes requests of it, valid and not."""

import asyncio
import subprocess
import sys
from pathlib import Path

from runtime.http.keys import ROOT, PageToken, hash_of
from tests.http_lab import BEARER, KEY, PATH
from tests.test_http import address

__all__ = ["address"]


async def conforms(url: str, folder: Path, *options: str) -> None:
    """Let Schemathesis make requests of the schema, valid and not, and compare the answers with it."""
    token = PageToken.until(ROOT, "default", "https://a.example", 600).signed(hash_of(KEY))
    config = folder / "schemathesis.toml"
    config.write_text(f'[parameters]\n"query.token" = "{token}"\n')
    command = (
        *("-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json", "--no-color"),
        *("-H", f"Authorization: {BEARER['Authorization']}", "-H", "Origin: https://a.example"),
        *("--seed", "1", "--max-examples", "10", "--exclude-path", "/metrics", "--suppress-health-check", "all"),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-10_000:]
    assert b" passed" in said


async def test_answers_match_the_schema(address: str, tmp_path: Path) -> None:
    """Only documented answers are returned, forbidden requests are refused, and none is a 500."""
    # A schema cannot express everything: which text is a cursor or a time, which fields contradict one another;
    # and to it 78.0 is an integer.
    more_than_a_schema = (
        *(PATH, f"{PATH}/beacon", f"{PATH}/beacon-token", f"{PATH}/list"),
        *(
            "/v1/keys",
            "/v1/outcomes",
            "/v1/export",
            "/v1/reports/{name}",
            "/v1/evaluations/score",
            "/v1/evaluations/gate",
        ),
        *("/v1/events", "/v1/events/recent"),
        *("/v1/retrievers/evaluations/datasets", "/v1/retrievers/evaluations/datasets/{dataset_identifier}"),
        "/v1/retrievers/{retriever_id}/evaluations/generate-from-interactions",
        *("/v1/retrievers/{retriever_id}/propensities", "/v1/retrievers/{retriever_id}/judgments"),
        *("/v1/evaluations/off-policy", "/v1/interleavings", "/v1/interleavings/{experiment}"),
        "/v1/interleavings/{experiment}/drafts",
        "/v1/analytics/retrievers/{retriever_id}/performance",
        *(
            f"/v1/retrievers/{{retriever_id}}/{name}"
            for name in ("learning-config", "learning-config/history", "weights/history", "weights/sessions")
        ),
        "/v1/retrievers/{retriever_id}/weights/whatif",
        *("/v1/dead-letters", "/v1/dead-letters/groups", "/v1/dead-letters/replay"),
    )
    others = [option for path in more_than_a_schema for option in ("--exclude-path", path)]
    these = [option for path in more_than_a_schema for option in ("--include-path", path)]
    await conforms(address, tmp_path, *others)
    await conforms(address, tmp_path, *these, "--exclude-checks", "positive_data_acceptance")
