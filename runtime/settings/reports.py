"""Settings of analytics reports."""

from pydantic import Field
from pydantic_settings import BaseSettings

MIB = 1024 * 1024


class ReportSettings(BaseSettings):
    """Settings of reports: the query's text, and bounds of what a report may cost."""

    query_text_path: str = Field("text", pattern=r"^[^.\x00-\x1f]{1,100}(\.[^.\x00-\x1f]{1,100}){0,7}$")
    """Path of the query's text in query_snapshot, keys separated by dots. `tally init` applies a change to views."""
    report_timeout_ms: int = Field(50_000, ge=100)
    """Milliseconds until a report is given up. A report that takes longer needs TALLY_QUERY_TIMEOUT_MS raised, too."""
    report_memory_bytes: int = Field(4096 * MIB, ge=64 * MIB)
    """Maximum memory of one report in ClickHouse, in bytes. From a quarter of it on, groups are spilled to disk."""
    report_rows: int = Field(10_000, ge=1, le=1_000_000)
    """Maximum rows of a report. Further ones are left out, and the answer says so."""
    reports_in_flight: int = Field(4, ge=1)
    """Maximum reports in flight in one API process. Further ones are answered 503."""
    health_every_ms: int = Field(300_000, ge=0, le=86_400_000)
    """Milliseconds between two measurements of the metric tally_tracking_fault_excess, by one reader at a time. 0: no
    reader measures it."""

    @property
    def query_path(self) -> tuple[str, ...]:
        """Keys of the query's text in `query_snapshot`."""
        return tuple(self.query_text_path.split("."))
