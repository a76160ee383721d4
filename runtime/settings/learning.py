"""Settings of learning from events."""

from pydantic import Field
from pydantic_settings import BaseSettings

MIB = 1024 * 1024


class LearningSettings(BaseSettings):
    """Bounds of estimates and training sets."""

    learning_cells: int = Field(10_000_000, ge=1_000, le=100_000_000)
    """Maximum counts (query, document, position, group of executions) that one estimate holds, 26 bytes each."""
    learning_text_bytes: int = Field(256 * MIB, ge=MIB)
    """Maximum bytes of queries and documents of one set of judgments, each item of which takes about 200 bytes besides,
    and of the decisions of one what-if estimate."""
    learning_in_flight: int = Field(2, ge=1)
    """Maximum estimates in flight in one API process. Further ones are answered 503."""
    learning_bodies_in_flight: int = Field(8, ge=1)
    """Maximum request bodies of learning that one API process reads at a time. Further ones are answered 503."""
    interleavings_in_flight: int = Field(500, ge=1)
    """Maximum requests to interleave two rankings in flight in one API process. Further ones are answered 503."""
    min_ess: float = Field(100, ge=1, le=1e9)
    """Smallest effective sample size, in executions, of an off-policy estimate. A smaller one is refused."""
    whatif_executions: int = Field(200_000, ge=100, le=10_000_000)
    """Maximum executions of one estimate of what another learning configuration would have served, 1 kB each."""
    evaluation_bytes: int = Field(16 * MIB, ge=1024, le=256 * MIB)
    """Maximum bytes of one evaluation: a request to score, an evaluation dataset, or a page of datasets."""
    evaluation_queries: int = Field(10_000, ge=1, le=1_000_000)
    """Maximum queries of one evaluation: items to score, or queries of a dataset."""
    evaluation_documents: int = Field(1_000_000, ge=1, le=100_000_000)
    """Maximum documents of one evaluation: rankings and relevant documents of all its queries."""
    evaluation_datasets: int = Field(1_000, ge=1, le=100_000)
    """Maximum evaluation datasets of one namespace."""
