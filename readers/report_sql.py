"""SQL of a report as text, with every parameter written out, for people to run and change."""

import re
from collections.abc import Mapping
from typing import Any

from readers.report_statement import ReportRequest, grouped, report_named, statement_of, with_columns
from runtime.settings import Settings
from schemas.analytics.definition import ParameterValue, ReportScope
from schemas.sql_text import literal

_PLACEHOLDER = re.compile(r"\{(\w+):([^{}]+)\}")


def report_sql(settings: Settings, request: ReportRequest) -> str:
    """Return the statement that gives the rows of a report: of its view, or of its whole definition if it is filtered.

    Raises ReportError.
    """
    report = with_columns(grouped(report_named(request.name), request.parameters), request.columns)
    statement = statement_of(settings, report, request)
    given = {name: statement.values[name] for name in ("namespace", "since", "until")} | dict(statement.parameters)
    if statement.scope == ReportScope(path=settings.query_path):
        listed = ", ".join(f"{name} = {_literal(value)}" for name, value in given.items())
        return statement.reading(f"{report.view}({listed})", statement.rows)
    return statement.reading(f"({_with_literals(statement.source, statement.values)})", statement.rows)


def _with_literals(sql: str, values: Mapping[str, Any]) -> str:
    """Return a statement with literals in place of its placeholders. Values are not searched for placeholders."""

    def written(found: re.Match[str]) -> str:
        name, kind = found.groups()
        if name not in values:
            return found[0]
        value = values[name]
        return literal(value) if kind == "String" else f"CAST({_castable(value)}, {literal(kind)})"

    return _PLACEHOLDER.sub(written, sql)


def _literal(value: ParameterValue) -> str:
    return literal(value) if isinstance(value, str) else repr(value)


def _castable(value: Any) -> str:
    """Return a value as a text, from which a cast gives numbers exactly; a list of texts as an array."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return f"[{', '.join(map(literal, value))}]"
    return literal(str(value))
