"""Every call that docs/api.md shows, as curl and as Python, works verbatim."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from schemas.analytics.catalogue import REPORTS
from schemas.interaction import NO_FEATURE_URI
from tests.http_lab import consuming, served, with_key
from tests.lab import Lab, as_json

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
DOCUMENTED_URL = "http://127.0.0.1:8080"
PRINTED = [
    f"True {NO_FEATURE_URI}",
    "3 0 ['created', 'created', 'created']",
    "execution ['no_feature_uri', 'no_retriever_id', 'no_query_text']",
    "body.interaction_type: Field required (and 1 more errors) [['body', 'interaction_type'], ['body', 'position']]",
    "doc-17 stored",
    "['stored'] None",
    "stored execution 0",
    "True 0",
    "True",
    "feature_id,position",
    '"doc-17",2',
    '"doc-17",2',
    "['overview', 'queries', 'positions']",
    "True False",
    "SELECT period, type, interactions FROM report_types",
    "[('red shoes', 'doc-9', 0)] False",
    "1 1 undecided",
    "[3] None",
    "[('new-ranker', 1)]",
    "{'text': 0.5, 'image': 0.5} static",
    "[('shoes', 1)]",
    "422 retriever 'nobody' has no results in this range",
    "True",
    "2 {'min_interactions': {'before': 10, 'after': 5}}",
    "5",
    "[2, 1]",
    "['hybrid']",
    "True []",
    "[]",
    "True",
    "deleted",
    "dict_keys(['results', 'next_cursor'])",
    "['search-4712']",
    "60 ['accepted', 'accepted_by', 'groups', 'per_minute', 'refused', 'since', 'until']",
    "wrong_type position 1 ['position'] True",
    "1 1 0 False",
    "True ok",
    "60000 1 True",
    "[('default', False, [])]",
    "204",
    "root None default",
    "True True",
    "False",
]
"""Lines that the Python examples of the page print."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def run(command: list[str], text: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, check=False, capture_output=True, text=True, input=text, env=os.environ, cwd=folder, timeout=120
    )


async def test_the_documented_calls_run(lab: Lab, tmp_path: Path) -> None:
    settings = with_key(lab.settings, read_wait_ms=60_000, delivery_timeout_ms=60_000, api_namespaces=("default",))
    await lab.put(as_json("doc-99", "search-4710", position="first"))
    await lab.drain()
    async with served(settings) as url, consuming(lab.settings):

        def here(text: str) -> str:
            return text.replace(DOCUMENTED_URL, url).replace("your-key", "a-secret-key")

        shell = here("set -e\n" + "\necho\n".join(blocks("bash")).replace("curl -s", "curl -sS --fail"))
        done = await asyncio.to_thread(run, ["/bin/bash", "-s"], shell, tmp_path)
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in re.findall(r"\{.*\}", done.stdout.replace("}{", "}\n{"))]
        (
            created,
            batch,
            dry_run,
            record,
            status,
            ada,
            found,
            exported,
            reports,
            overview,
            *evaluations,
            deleted,
            outcomes,
            letters,
            token,
        ) = answers
        assert created["feature_id"] == "doc-17"
        assert (batch["created"], batch["failed"]) == (1, 1)
        assert "position_outside_results" in {each["code"] for each in dry_run["results"][0]["warnings"]}
        assert record["feature_id"] == "doc-3"
        assert status["status"] == "stored"
        assert [each["user_id"] for each in ada["results"]] == ["ada"]
        assert found["pagination"]["total"] == 1
        assert exported == ada["results"][0]
        assert (tmp_path / "interactions.parquet").read_bytes().startswith(b"PAR1")
        assert [each["name"] for each in reports["reports"]] == list(REPORTS)
        assert overview["columns"] == reports["reports"][0]["columns"]
        score, gate, dataset, same, configured = evaluations
        assert (score["aggregate"]["recall"], score["count"]) == (0.5, 1)
        assert gate["reason"] == "too few queries to say: 1, at least 10 are needed"
        assert (dataset["query_count"], same) == (1, dataset)
        assert configured["changed"]["min_interactions"] == {"before": None, "after": 10}
        assert deleted["success"] is True
        assert outcomes["results"] == []
        assert [each["field"] for each in letters["letters"]] == ["position"]
        assert token["token"].startswith("tb_")

        # The page lists events that it has just sent: on a busy machine they are not stored yet. A get waits for them.
        stored = """for each in answer["results"]:
    api.get("/v1/retrievers/interactions/" + each["interaction_id"])
print(answer["created"],"""
        program = "\n".join(blocks("python")).replace('print(answer["created"],', stored, 1)
        done = await asyncio.to_thread(run, [sys.executable, "-"], here(program))
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == PRINTED


async def test_the_documented_error_is_returned(lab: Lab) -> None:
    (shown,) = blocks("json")
    async with served(with_key(lab.settings)) as url:
        event = '{"feature_id": "d", "interaction_type": ["click"], "position": "x"}'
        command = [
            "curl",
            "-sS",
            f"{url}/v1/retrievers/interactions",
            "-H",
            "Authorization: Bearer a-secret-key",
            "-d",
            event,
        ]
        done = await asyncio.to_thread(run, command, "")
    assert json.loads(done.stdout) == json.loads(shown)
