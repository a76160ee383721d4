"""Files of examination propensities, as JSON."""

import math
from typing import Annotated

import msgspec

from learning.estimators.curve import PropensityCurve, PropensityMethod, PropensityPoint

MAX_FILE_BYTES = 64 * 1024 * 1024


class _Point(msgspec.Struct):
    position: Annotated[int, msgspec.Meta(ge=0)]
    value: float | None
    impressions: int = 0
    clicks: int = 0
    items: int = 0
    low: float | None = None
    high: float | None = None
    reason: str = ""


class _Curve(msgspec.Struct):
    points: list[_Point]
    segment: str = ""
    method: PropensityMethod = "em"
    reference: int = 0


class _File(msgspec.Struct):
    curves: list[_Curve]


def parse_curves(text: bytes) -> list[PropensityCurve]:
    """Parse curves: `{"curves": [{"segment": "ios", "points": [{"position": 0, "value": 1.0}, ...]}, ...]}`.

    Only `points` with `position` (from 0) and `value` (null: not known) are required; unknown keys are ignored. Raises
    ValueError for another form, a value that is not above 0, and a segment or position that occurs twice.
    """
    try:
        found = msgspec.json.decode(text, type=_File)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a file of propensities: {error}") from None
    curves = [_checked(each) for each in found.curves]
    if not curves:
        raise ValueError("no curve is in the file")
    if len({curve.segment for curve in curves}) < len(curves):
        raise ValueError("a segment has two curves")
    return curves


def _checked(curve: _Curve) -> PropensityCurve:
    name = f"segment {curve.segment[:40]!r}"
    positions = [point.position for point in curve.points]
    if len(set(positions)) < len(positions):
        raise ValueError(f"{name} has a position twice")
    for point in curve.points:
        if point.value is not None and not (point.value > 0 and math.isfinite(point.value)):
            raise ValueError(f"the propensity of position {point.position} of {name} is {point.value}, not above 0")
    points = tuple(PropensityPoint(**msgspec.structs.asdict(point)) for point in curve.points)
    return PropensityCurve(curve.segment, curve.method, curve.reference, points)
