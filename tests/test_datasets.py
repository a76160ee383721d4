"""Evaluation datasets: functions of the log and the deletions, with names that are taken once."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from learning.datasets import DatasetConflict, Datasets, TooManyDatasets, UnknownDataset
from learning.interaction_datasets import query_id
from learning.scope import Refusal, ScopeError
from runtime.analytics import RangeTooLarge
from runtime.deletions import Deletion, Deletions
from tests.analytics.loading import BEGIN
from tests.evaluation_lab import content, datasets, generated, loaded, namespace, posted, reaction, traffic
from tests.lab import Lab


async def test_grades_are_the_highest_reward_of_an_interaction(shared_lab: Lab) -> None:
    space = namespace()
    await loaded(
        *(shared_lab, space),
        reaction("Shoes ", "clicked"),
        reaction("shoes", "clicked", "impression", number=1),
        reaction("ＳＨＯＥＳ", "bought", number=2),  # noqa: RUF001
        reaction("shoes", "bought", "purchase", number=3),
        reaction("shoes", "both", "click", "purchase", number=4),
        reaction("shoes", "much", "purchase", "add_to_cart", "share", number=5),
        reaction("shoes", "shared", "share", number=6),
        reaction("shoes", "disliked", "click", "negative_feedback", number=7),
        reaction("shoes", "cart", "add_to_cart", number=8),
        reaction("shoes", "other", number=9, retriever_id="hybrid"),
        reaction("shoes", "clicked and shared", "click", "share", number=10),
        reaction("hat", "hat", number=11),
        reaction("hat", "hat", "bookmark", number=11),
        reaction("scarf", "scarf", number=12),
    )
    dataset = await generated(shared_lab, space, min_interactions=2)
    grades = {"much": 5, "both": 4, "bought": 3, "clicked and shared": 3, "shared": 2, "clicked": 1, "disliked": 1}
    assert content(dataset) == {"shoes": grades, "hat": {"hat": 2}}, "two interactions in one execution are two"
    query, _ = dataset.queries
    assert query["relevant_documents"] == [*grades], "the best first, then by id"
    assert query["query_id"] == query_id("shoes")
    assert content(await generated(shared_lab, space, "cart", positive_types=["add_to_cart"])) == {
        "shoes": {"much": 5, "cart": 2}
    }
    assert [*content(await generated(shared_lab, space, "all"))] == ["shoes", "hat", "scarf"], "most interactions first"


async def test_a_dataset_without_an_erased_user_is_that_of_a_log_without_the_user(shared_lab: Lab) -> None:
    whole, without = namespace(), namespace()
    events = list(traffic(30))
    await loaded(shared_lab, whole, *events)
    await loaded(shared_lab, without, *(each for each in events if each.execution_id != "exec-7"))
    before, expected = await generated(shared_lab, whole), await generated(shared_lab, without)
    assert content(before) != content(expected)
    ids = await shared_lab.rows(
        "SELECT interaction_id FROM interactions WHERE namespace = {space:String} AND execution_id = 'exec-7'",
        space=whole,
    )
    deletions = Deletions(shared_lab.database)
    erased = [Deletion(interaction_id, whole) for (interaction_id,) in ids]
    assert len(erased) == 3
    for deletion in erased:
        await deletions.note(deletion)
    await deletions.erase(erased)
    after = await datasets(shared_lab, whole).get("clicked")
    assert after.queries == expected.queries
    assert (await datasets(shared_lab, whole).page(1, 20)).datasets == [after]


async def test_later_events_and_repeated_rows_change_no_dataset(shared_lab: Lab) -> None:
    space = namespace()
    await loaded(shared_lab, space, *traffic(12))
    first = await generated(shared_lab, space)
    await loaded(shared_lab, space, *(reaction("Query 0", "late", number=100 + number) for number in range(5)))
    await shared_lab.rows(
        "INSERT INTO interactions SELECT * FROM interactions WHERE namespace = {space:String}", space=space
    )
    assert (await datasets(shared_lab, space).get(first.dataset_id)) == first
    assert "late" in content(await generated(shared_lab, space, "later"))["query 0"]
    cut = (BEGIN, BEGIN + timedelta(days=20))
    assert (await generated(shared_lab, space, "again", range=cut)).queries != first.queries


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retriever": "nobody's"}, "has no results in this range"),
        ({"positive_types": ["share"]}, "have no interaction of the types share"),
        ({"min_interactions": 100}, "no query has 100 positive interactions; 12 results have one"),
        ({"range": (BEGIN - timedelta(days=9), BEGIN - timedelta(days=8))}, "has no results in this range"),
    ],
)
async def test_an_empty_dataset_is_refused_with_the_reason(shared_lab: Lab, options: dict[str, Any], says: str) -> None:
    space = namespace()
    await loaded(shared_lab, space, *traffic(12))
    with pytest.raises(Refusal, match=says):
        await generated(shared_lab, space, **options)
    assert (await datasets(shared_lab, space).page(1, 20)).total == 0


async def test_events_without_a_query_text_are_named(shared_lab: Lab) -> None:
    space = namespace()
    await loaded(shared_lab, space, *(reaction(None, "a", number=number) for number in range(3)))
    with pytest.raises(Refusal, match=r"no query text in query_snapshot\.text"):
        await generated(shared_lab, space)


async def test_a_bad_scope_is_refused(shared_lab: Lab) -> None:
    with pytest.raises(ScopeError, match="a retriever's name"):
        await generated(shared_lab, namespace(), retriever="x" * 2_000)
    with pytest.raises(ScopeError, match="not later than since"):
        await generated(shared_lab, namespace(), range=(BEGIN, BEGIN))


async def test_datasets_are_bounded(shared_lab: Lab) -> None:
    space = namespace()
    await loaded(shared_lab, space, *traffic(12))
    await generated(shared_lab, space)
    with pytest.raises(Refusal, match=r"more than 2 queries \(TALLY_EVALUATION_QUERIES\)"):
        await datasets(shared_lab, space, evaluation_queries=2).get("clicked")
    with pytest.raises(Refusal, match="larger than 20 bytes"):
        await datasets(shared_lab, space, evaluation_bytes=20).get("clicked")
    with pytest.raises(TooManyDatasets, match="TALLY_EVALUATION_DATASETS"):
        await datasets(shared_lab, space, evaluation_datasets=1).create(posted("another"))
    with pytest.raises(RangeTooLarge, match="TALLY_REPORT_MEMORY_BYTES"):
        await datasets(shared_lab, space, report_memory_bytes=1).get("clicked")


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        ({"evaluation_queries": 2}, "TALLY_EVALUATION_QUERIES"),
        ({"report_memory_bytes": 1}, "TALLY_REPORT_MEMORY_BYTES"),
        ({"report_timeout_ms": 0}, "TALLY_REPORT_TIMEOUT_MS"),
    ],
)
async def test_a_list_has_datasets_that_cannot_be_computed(shared_lab: Lab, bound: dict[str, int], reason: str) -> None:
    space = namespace()
    await loaded(shared_lab, space, *traffic(12))
    created = await generated(shared_lab, space)
    other = await datasets(shared_lab, space).create(posted("another"))
    bounded = datasets(shared_lab, space, **bound)
    found = {each.name: each for each in (await bounded.page(1, 20)).datasets}
    assert found["another"] == other
    assert found["clicked"].queries == []
    about = dict(found["clicked"].metadata or {})
    assert reason in about.pop("error")
    assert about == created.metadata
    await bounded.delete("clicked")
    assert (await bounded.page(1, 20)).datasets == [other]


async def test_a_page_of_one_dataset_is_never_too_large(shared_lab: Lab) -> None:
    space = namespace()
    bounded = datasets(shared_lab, space, evaluation_bytes=20)
    created = [await bounded.create(posted(name)) for name in ("first", "second")]
    with pytest.raises(Refusal, match="request a smaller page_size"):
        await bounded.page(1, 2)
    pages = [await bounded.page(number, 1) for number in (1, 2)]
    assert {each.name for page in pages for each in page.datasets} == {each.name for each in created}


async def test_of_concurrent_creations_of_a_name_one_succeeds(shared_lab: Lab) -> None:
    own = datasets(shared_lab, namespace())
    results = await asyncio.gather(
        *(own.create(posted("same", description=str(number))) for number in range(8)), return_exceptions=True
    )
    (created,) = [result for result in results if not isinstance(result, BaseException)]
    assert sum(isinstance(result, DatasetConflict) for result in results) == 7
    assert (await own.get("same")) == created == (await own.get(created.dataset_id))
    with pytest.raises(DatasetConflict, match=f"taken by dataset {created.dataset_id}"):
        await own.create(posted("same"))
    assert (await datasets(shared_lab, namespace()).create(posted("same"))).name == "same", "of another namespace"


class LateDatasets(Datasets):
    """Datasets that have read the versions of a name before another creation of it."""

    async def _next_version(self, _name: str) -> int:
        return 1


async def test_a_creation_that_has_read_an_older_version_is_a_conflict(shared_lab: Lab) -> None:
    space = namespace()
    first = await datasets(shared_lab, space).create(posted("same"))
    with pytest.raises(DatasetConflict, match=first.dataset_id):
        await LateDatasets(shared_lab.settings, shared_lab.database, space).create(posted("same", description="late"))
    assert await datasets(shared_lab, space).get("same") == first


async def test_a_deleted_name_is_free_again(shared_lab: Lab) -> None:
    own = datasets(shared_lab, namespace())
    for number in range(3):
        created = await own.create(posted("same", metadata={"number": number}))
        assert (await own.get("same")).metadata == {"number": number}
        await own.delete(created.dataset_id if number else "same")
        with pytest.raises(UnknownDataset):
            await own.get("same")
    with pytest.raises(UnknownDataset):
        await own.delete("same")
    assert (await own.page(1, 20)).total == 0


async def test_pages_are_newest_first(shared_lab: Lab) -> None:
    own = datasets(shared_lab, namespace())
    names = [(await own.create(posted(f"name-{number}"))).name for number in range(5)]
    pages = [await own.page(number, 2) for number in (1, 2, 3, 4)]
    assert [dataset.name for page in pages for dataset in page.datasets] in (names[::-1], sorted(names, reverse=True))
    assert {page.total for page in pages} == {5}


async def test_an_id_is_found_before_a_name_that_looks_like_it(shared_lab: Lab) -> None:
    own = datasets(shared_lab, namespace())
    first = await own.create(posted("first"))
    await own.create(posted(first.dataset_id))
    assert (await own.get(first.dataset_id)).name == "first"
