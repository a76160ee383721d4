"""Topics and tables of an installation."""

from runtime.kafka import create_topics
from runtime.migrate import migrate
from runtime.settings import Settings


async def initialize(settings: Settings) -> list[int]:
    """Create the topics, create or migrate the tables, and return the numbers of the migrations that were applied."""
    await create_topics(settings)
    return await migrate(settings)
