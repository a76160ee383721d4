"""JSON form of propensities: the answer of the API, and the file that judgments and training sets read again."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from learning.estimators.curve import DEFAULT_METHOD, PropensityCurve, PropensityMethod, PropensityPoint
from learning.scope import LearningScope
from runtime.errors import TallyError
from runtime.text import printable
from schemas.event_time import iso_ms
from schemas.interaction import MAX_INT32

MAX_FILE_BYTES = 64 * 1024 * 1024
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text has a lone surrogate, which is no character") from None
    return text


Text = Annotated[str, AfterValidator(_utf8)]
"""Text that can be written as UTF-8."""
LOWEST_VALUE, LARGEST_VALUE = 1e-6, 10.0
"""Range of the propensities of a file. They are relative to the reference position, mostly the first."""


class PropensityFileError(TallyError):
    """File of propensities that cannot be used. The message names the entry to change."""

    exit_code = 2


class PointOfCurve(BaseModel):
    """Propensity of one position, relative to that of the reference."""

    model_config = STRICT

    position: int = Field(ge=0, le=MAX_INT32, description="0-based")
    value: float | None = Field(gt=0, description="null if the events do not determine it")
    low: float | None = Field(None, gt=0, description="lower end of the 95 % interval")
    high: float | None = Field(None, gt=0, description="upper end")
    impressions: int = Field(0, ge=0)
    clicks: int = Field(0, ge=0)
    items: int = Field(0, ge=0, description="pairs of query and document shown here and at another position")
    reason: Text = Field("", description="reason of a value that is null")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.value is not None and not (self.low or self.value) <= self.value <= (self.high or self.value):
            raise ValueError("low, value and high must ascend")
        return self


class CurveOfSegment(BaseModel):
    """Propensities of one segment by position. Without `by` there is one segment, an empty text."""

    model_config = STRICT

    segment: Text = ""
    method: PropensityMethod = DEFAULT_METHOD
    reference: int = Field(0, ge=0, description="position whose propensity is 1")
    points: list[PointOfCurve] = Field(min_length=1)
    omitted: int = Field(0, ge=0, description="impressions at positions below the last point")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if repeated := _repeated(point.position for point in self.points):
            raise ValueError(f"position {repeated[0]} occurs more than once")
        return self

    def curve(self) -> PropensityCurve:
        """Return the curve, in ascending order of positions."""
        names = PropensityPoint._fields
        points = sorted(PropensityPoint(*(getattr(point, name) for name in names)) for point in self.points)
        return PropensityCurve(self.segment, self.method, self.reference, tuple(points), self.omitted)


class PropensityDocument(BaseModel):
    """Propensities of a retriever's results, with their scope."""

    model_config = STRICT

    retriever: Text = ""
    namespace: Text = ""
    since: Text = ""
    until: Text = ""
    by: Text | None = Field(None, description="path of the segments' texts, such as metadata.device")
    curves: list[CurveOfSegment] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if repeated := _repeated(curve.segment for curve in self.curves):
            raise ValueError(f"segment {repeated[0][:60]!r} occurs more than once")
        return self


def curves_document(scope: LearningScope, curves: Sequence[PropensityCurve]) -> dict[str, Any]:
    """Return the JSON form of curves and their scope."""
    return {
        "retriever": scope.retriever,
        "namespace": scope.namespace,
        "since": iso_ms(scope.since),
        "until": iso_ms(scope.until),
        "by": _path_of(scope),
        "curves": curves_as_json(curves),
    }


def curves_as_json(curves: Sequence[PropensityCurve]) -> list[dict[str, Any]]:
    """Return curves as objects."""
    return [{**curve._asdict(), "points": [point._asdict() for point in curve.points]} for curve in curves]


def curves_from_json(found: object) -> tuple[PropensityCurve, ...]:
    """Return the curves of a list of such objects. Raises ValueError."""
    return tuple(curve.curve() for curve in PropensityDocument.model_validate({"curves": found}).curves)


def _path_of(scope: LearningScope) -> str | None:
    return ".".join(("metadata", *scope.segment_path)) if scope.segment_path else None


def read_curves(text: str | bytes, scope: LearningScope | None = None) -> list[PropensityCurve]:
    """Return the curves of a file, also of one written by hand. Raises PropensityFileError.

    `scope`: results that the curves are used for; curves of another retriever, or by another path, are refused.
    A value such as 50 is a percentage by mistake, and would be accepted as a weight of 1 / 50.
    """
    if len(text) > MAX_FILE_BYTES:
        raise PropensityFileError(f"a file of propensities has at most {MAX_FILE_BYTES:,} bytes")
    try:
        document = PropensityDocument.model_validate(json.loads(text))
    except ValidationError as error:
        raise PropensityFileError(first_error(error)) from None
    except (ValueError, RecursionError) as error:
        raise PropensityFileError(f"the file of propensities is not JSON: {error}") from None
    for curve in document.curves:
        for point in curve.points:
            if point.value is not None and not LOWEST_VALUE <= point.value <= LARGEST_VALUE:
                raise PropensityFileError(
                    f"position {point.position}: {point.value:g} is not from 0.000001 to 10. A propensity is relative "
                    f"to position {curve.reference}, and no percentage"
                )
    if scope is not None:
        _check_scope(document, scope)
    return [curve.curve() for curve in document.curves]


def _check_scope(document: PropensityDocument, scope: LearningScope) -> None:
    if document.retriever and document.retriever != scope.retriever:
        raise PropensityFileError(
            f"the propensities are of retriever {document.retriever[:60]!r}, and {scope.retriever[:60]!r} is asked for"
        )
    path, has_segments = _path_of(scope), any(curve.segment for curve in document.curves)
    if path is None and (document.by or has_segments):
        raise PropensityFileError(f"the propensities are by {document.by or 'segments'}: add --by with that path")
    if path is not None and document.by not in (path, None):
        raise PropensityFileError(f"the propensities are by {document.by}, and --by is {path}")
    if path is not None and not has_segments:
        raise PropensityFileError(f"the propensities have no segments, and --by is {path}")


def first_error(error: ValidationError) -> str:
    """Return the first error of a document, with the place in it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    return printable(f"{place[:100] or 'the file'}: {first['msg'].removeprefix('Value error, ')}")


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
