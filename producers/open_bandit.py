"""Importer of the Open Bandit logs: real impressions and clicks of a fashion shop (Saito et al., 2020, "Open Bandit
Dataset and Pipeline"), read as CSV from the wheel that ships them. The wheel is not installed.

One row is one shown item: item_id -> feature_id, position (1-based) -> position (0-based), click -> impression
or impression and click, timestamp -> occurred_at, policy -> retriever_id, propensity and user features ->
metadata. Each row is an execution of its own.
"""

import csv
import hashlib
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from producers.producer import ImportedInteraction
from runtime.errors import TallyError
from schemas.event_time import parse_occurred_at, to_epoch_ms
from schemas.identity import PREFIX, derive_import_id
from schemas.interaction import Interaction

LoggingPolicy = Literal["random", "bts"]
Campaign = Literal["all", "men", "women"]

WHEEL = "obp-0.4.1-py3-none-any.whl"
WHEEL_SHA256 = "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208"
_USER_FEATURES = tuple(f"user_feature_{number}" for number in range(4))


def find_wheel() -> Path:
    """Return the wheel that `make up` downloaded. Raises TallyError when it is missing or not the pinned one."""
    path = Path(sys.prefix) / "share" / "tally" / WHEEL
    if not path.exists():
        raise TallyError(
            f"the Open Bandit logs are missing ({path}): run `make up` once, or "
            f"`pip download --no-deps --dest {path.parent} -r requirements/data.txt`"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise TallyError(f"{path} is not the pinned obp 0.4.1: delete it and run `make up`")
    return path


def read_log(policy: LoggingPolicy, campaign: Campaign, namespace: str) -> Iterator[ImportedInteraction]:
    """Yield the rows of one log in file order, with ids that every import of it derives identically.

    Raises TallyError that names an unreadable row.
    """
    member = f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv"
    source = f"open-bandit/{policy}/{campaign}"
    seen: Counter[bytes] = Counter()
    with zipfile.ZipFile(find_wheel()) as wheel, wheel.open(member) as file:
        header = next(csv.reader([file.readline().decode()]))
        for number, line in enumerate(file, 1):
            try:
                row = dict(zip(header, next(csv.reader([line.decode()])), strict=True))
                occurred_at = parse_occurred_at(row["timestamp"])
                interaction_id = derive_import_id(namespace, source, line, seen[line], to_epoch_ms(occurred_at))
                interaction = Interaction(
                    feature_id=row["item_id"],
                    interaction_type=["impression", "click"] if int(row["click"]) else ["impression"],
                    position=int(row["position"]) - 1,
                    execution_id=f"open-bandit-{interaction_id.removeprefix(PREFIX)}",
                    retriever_id=policy,
                    occurred_at=occurred_at,
                    metadata={
                        "campaign": campaign,
                        "propensity": float(row["propensity_score"]),
                        **{name: row[name] for name in _USER_FEATURES},
                    },
                )
            except (ValueError, KeyError, StopIteration) as error:
                raise TallyError(f"{member}, row {number}: {type(error).__name__}: {error}") from error
            seen[line] += 1
            yield ImportedInteraction(interaction, interaction_id)
