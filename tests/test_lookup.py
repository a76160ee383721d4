"""Lookups of ids with several rows: the newest version of the first place counts."""

from readers.lookup import IDS_PER_QUERY, Lookups, read_stored
from runtime.deletions import Deletion, Deletions
from schemas.identity import mint_id
from schemas.outcome import Deleted, Outcome, Stored
from schemas.tables import INTERACTIONS
from tests.lab import Lab


async def insert(lab: Lab, interaction_id: str, rows: int) -> None:
    """Rows of one id at different places, the highest first; `position` is the offset."""
    await lab.database.command(
        f"INSERT INTO {INTERACTIONS} (namespace, interaction_id, feature_id, position, timestamp, _topic, _offset) "
        "SELECT 'default', {id:String}, 'f', number, now64(3), 't', number FROM numbers({rows:UInt64}) "
        "ORDER BY number DESC",
        {"id": interaction_id, "rows": rows},
    )


def position_of(outcome: Outcome | None) -> int:
    assert isinstance(outcome, Stored)
    return int(outcome.row["position"])


async def test_the_first_place_of_an_id_counts(lab: Lab) -> None:
    twice, often, once = mint_id(), mint_id(), mint_id()
    await insert(lab, twice, 2)
    await insert(lab, often, 5 * IDS_PER_QUERY)  # more than the rows that one query returns
    await insert(lab, once, 1)
    lookups = Lookups(lab.database, 10)
    for each in (twice, often, once):
        assert position_of(await lookups.get("default", each)) == 0
    found = await read_stored(lab.database, "default", [twice, often, once])
    assert {each: row["position"] for each, row in found.items()} == {twice: 0, often: 0, once: 0}


async def test_a_deleted_event_is_deleted_beside_its_older_row(lab: Lab) -> None:
    gone, kept = mint_id(), mint_id()
    never_merged = "max_bytes_to_merge_at_max_space_in_pool = 1"
    await lab.database.command(f"ALTER TABLE {INTERACTIONS} MODIFY SETTING {never_merged}")
    await insert(lab, gone, 1)
    await insert(lab, kept, 1)
    await Deletions(lab.database).erase([Deletion(gone, "default")])
    assert await lab.rows(f"SELECT count() FROM {INTERACTIONS}") == [(3,)]
    lookups = Lookups(lab.database, 10)
    assert await lookups.get("default", gone) == Deleted()
    assert position_of(await lookups.get("default", kept)) == 0
    assert set(await read_stored(lab.database, "default", [gone, kept])) == {kept}
