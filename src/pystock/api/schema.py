"""The contract of the inference API: the types of requests and responses, and the texts of errors in requests.

Requests are TypedDicts, which pydantic reads from the bytes of a body without creating objects: a row takes 4
microseconds, half of what `json.loads` takes.
"""

import difflib
from datetime import date
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

import numpy as np
import pandas as pd
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from pystock.errors import PystockError
from pystock.features import WINDOWS, volatility
from pystock.price_rules import COLUMNS, LONGEST_GAP, ROW_RULES

FEATURE_NAMES = tuple(volatility(pd.DataFrame(1.0, index=[0], columns=COLUMNS)).columns)
PAST = max(WINDOWS) + 1  # days of prices that one prediction needs
LARGEST = 1e6  # feature (a log return); far below what overflows the 32 bits of a model
MOST_ERRORS = 10
_MANY = 1000  # errors: above this only their number is returned, because to list them would delay other requests

_strict = with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
_typed_dict: Any = TypedDict  # for those that are made from FEATURE_NAMES and limits, which type checkers do not follow
Feature = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Price = Annotated[float, Field(gt=0, le=1e12)]
Volume = Annotated[float, Field(ge=0, le=1e15, multiple_of=1)]
Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", json_schema_extra={"format": "date"})]
Threshold = Annotated[float, Field(ge=0, le=1, description="Above it a decision is 1. Default: the model's own.")]

Row: Any = _strict(_typed_dict("Row", dict.fromkeys(FEATURE_NAMES, Feature)))
Row.__doc__ = "The features of a day, as pystock.features.volatility makes them: log returns, no unit."


@_strict
class PriceDay(TypedDict):
    """A trading day, in index points or the ticker's currency; a volume of 0 means that it is not known."""

    date: Day
    open: Price
    high: Price
    low: Price
    close: Price
    volume: Volume


class Refused(PystockError):
    """Raised for a request that gets an error: status, one sentence, and a list of what is wrong where."""

    def __init__(
        self, status: int, detail: str, errors: list[dict[str, str]] | None = None, *, reason: str = "", **headers: str
    ):
        super().__init__(detail)
        self.status, self.detail, self.errors, self.reason = status, detail, errors or [], reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Question(NamedTuple):
    """The content of a request: `numbers` (rows, 12) float64 for the model, or `prices` to make them from."""

    numbers: np.ndarray | None
    prices: list[dict[str, Any]] | None
    threshold: float | None


class Contract:
    """Read requests with at most `max_rows` rows or days, and describe them for OpenAPI."""

    def __init__(self, max_rows: int):
        rows: Any = Annotated[list[Row], Field(min_length=1, max_length=max_rows), FailFast()]
        prices = Annotated[list[PriceDay], Field(min_length=PAST, max_length=max_rows), FailFast()]
        threshold = {"threshold": NotRequired[Threshold]}
        self._rows = _strict(_typed_dict("RowsRequest", {"rows": rows, **threshold}))
        self._prices = _strict(_typed_dict("PricesRequest", {"prices": prices, **threshold}))
        either = {"rows": NotRequired[rows], "prices": NotRequired[prices]}
        self._reader = TypeAdapter(_strict(_typed_dict("Either", {**either, **threshold})))

    def read(self, body: bytes) -> Question:
        """Parse a body. Raises Refused with 400 or 422, which says what is wrong where."""
        try:
            found = self._reader.validate_json(body)
        except ValidationError as error:
            raise _explained(error, body) from None
        rows, prices = found.get("rows"), found.get("prices")
        if (rows is None) == (prices is None):
            which = "neither rows nor prices" if rows is None else "rows and prices"
            raise _refused([("", f"has {which}: send one of them")])
        numbers = None
        if rows is not None:  # pydantic orders the keys of a TypedDict as they are defined
            values = chain.from_iterable(map(dict.values, rows))
            numbers = np.fromiter(values, np.float64).reshape(len(rows), len(FEATURE_NAMES))
        return Question(numbers, prices, found.get("threshold"))

    def schemas(self) -> dict[str, Any]:
        """Return the schemas of requests and errors by name, for `components` of an OpenAPI document."""
        kinds = {"RowsRequest": self._rows, "PricesRequest": self._prices, "Problem": Problem}
        template = "#/components/schemas/{model}"
        asked = {name: TypeAdapter(kind).json_schema(ref_template=template) for name, kind in kinds.items()}
        inner = {name: part for each in asked.values() for name, part in each.pop("$defs", {}).items()}
        return inner | asked


def features(prices: list[dict[str, Any]]) -> tuple[list[str], np.ndarray]:
    """Return the dates with enough past and their features (days, 12), computed by the code of the training.

    Raises Refused for days out of order, a gap, a row that breaks a rule of pystock.price_rules, and features that are
    not finite.
    """
    wrong, before = [], None
    for number, day in enumerate(prices):
        where = f"prices[{number}]"
        try:
            today = date.fromisoformat(day["date"])
        except ValueError:
            raise _refused([(f"{where}.date", f"is {day['date']!r}, which is not a valid date")]) from None
        if before and today <= before:
            wrong.append((f"{where}.date", f"is {today}, which is not after {before}: send each day once, in order"))
        elif before and (today - before).days > LONGEST_GAP:
            wrong.append((f"{where}.date", f"is {today}, more than {LONGEST_GAP} days after {before}"))
        before = today
    _refuse_if(wrong)
    keys = ["close" if name == "Adj Close" else name.lower() for name in COLUMNS]
    numbers = np.array([[day[key] for key in keys] for day in prices], np.float64)
    dates = [day["date"] for day in prices]
    frame = pd.DataFrame(numbers, pd.DatetimeIndex(dates, name="Date"), COLUMNS)
    for rule, holds in ROW_RULES.items():
        bad = np.flatnonzero(~holds(frame).to_numpy())
        wrong += [(f"prices[{number}]", f"is invalid: {rule}") for number in bad[:MOST_ERRORS]]
    _refuse_if(wrong)
    with np.errstate(all="ignore"):
        numbers = volatility(frame).to_numpy()[PAST - 1 :]
    for row, column in np.argwhere(~np.isfinite(numbers))[:MOST_ERRORS]:
        name = FEATURE_NAMES[column]
        why = "no volume is known before that day" if name == "volume_change" else "the prices differ too much"
        wrong.append((f"prices[{row + PAST - 1}]", f"has no {name}: {why}"))
    _refuse_if(wrong)
    return dates[PAST - 1 :], np.ascontiguousarray(numbers)


_WORDS = {
    "missing": "is missing",
    "finite_number": "must be finite, not NaN or infinite",
    "float_type": "must be a number, not {kind}",
    "string_type": "must be a string, not {kind}",
    "list_type": "must be an array, not {kind}",
    "dict_type": "must be an object, not {kind}",
    "string_pattern_mismatch": "must be a date such as 2018-12-31",
    "multiple_of": "must be a whole number",
    "greater_than": "must be above {gt:.0f}",
    "greater_than_equal": "must be {ge:.0f} or more",
    "less_than_equal": "must be {le:.0f} or less",
    "too_short": "must have {min_length} or more entries, not {actual_length}",
    "too_long": "must have {max_length} or fewer entries, not {actual_length}",
}
_KINDS = {str: "a string", bool: "a boolean", type(None): "null", dict: "an object", list: "an array"}
_KNOWN = {0: ("rows", "prices", "threshold"), "rows": FEATURE_NAMES, "prices": tuple(PriceDay.__annotations__)}


def _explained(error: ValidationError, body: bytes) -> Refused:
    if error.error_count() > _MANY:
        return _refused([("", f"breaks the contract in {error.error_count()} places")])
    found = error.errors(include_url=False)
    if found[0]["type"] == "json_invalid":
        why = "it is empty" if not body.strip() else found[0]["ctx"]["error"]
        return Refused(400, f"The body is not JSON: {why}.", reason="json")
    return _refused([(_where(each["loc"]), _what(each)) for each in found])


def _where(place: tuple[int | str, ...]) -> str:
    path = ""
    for part in place:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part[:60]}"
    return path


def _what(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        place = error["loc"]
        near = difflib.get_close_matches(str(place[-1])[:60], _KNOWN[place[0] if len(place) > 1 else 0], 1)
        return "is unknown" + (f" (did you mean {near[0]}?)" if near else "")
    words = _WORDS.get(error["type"])
    if words is None:
        return error["msg"]
    kind = _KINDS.get(type(error["input"]), "a number")
    return words.format(kind=kind, **error.get("ctx", {}))


def _refused(wrong: list[tuple[str, str]]) -> Refused:
    """Make the error 422 from pairs (where, what), the first of which becomes the sentence."""
    where, what = wrong[0]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    errors = [{"where": where or "body", "what": what} for where, what in wrong[:MOST_ERRORS]]
    return Refused(422, f"{where or 'The body'} {what}{more}.", errors, reason="content")


def _refuse_if(wrong: list[tuple[str, str]]) -> None:
    if wrong:
        raise _refused(wrong)


# Responses --------------------------------------------------------------------------------------------------------


_DATE = Annotated[str, Field(description="for prices: the day whose close is the last one used")]
_VERSION_THEN = Field(description="the version of the alias at that time; null: none, or never looked up")
_ORIGIN: Any = Annotated[str, Field(description="registry or cache")]
_prediction: dict[str, Any] = {"date": NotRequired[_DATE], "probability": Annotated[float, Field(ge=0, le=1)]}
_problem: dict[str, Any] = {"type": str, "title": str, "status": int, "detail": str, "request_id": str}
_model: dict[str, Any] = {"name": str, "version": int, "alias": str | None, "model_id": str, "run_id": str}
_model |= {"loaded_at": str, "from": _ORIGIN, "threshold": float, "signature": dict[str, Any]}

ModelVersion: Any = _typed_dict("ModelVersion", {"name": str, "version": int})
Prediction: Any = _typed_dict("Prediction", _prediction | {"decision": Literal[0, 1]})
_predictions = {"request_id": str, "model": ModelVersion, "threshold": float, "predictions": list[Prediction]}
Predictions: Any = _typed_dict("Predictions", _predictions)
Wrong: Any = _typed_dict("Wrong", {"where": str, "what": str})
Problem: Any = _typed_dict("Problem", _problem | {"errors": NotRequired[list[Wrong]]})
Problem.__doc__ = "RFC 9457."
Model: Any = _typed_dict("Model", _model | {"metrics": dict[str, float], "tags": dict[str, str]})
TrackingServer: Any = _typed_dict("TrackingServer", {"reachable": bool, "since": str, "error": str | None})
RefusedVersion: Any = _typed_dict("RefusedVersion", {"version": int, "reason": str})
_champion = {"version": Annotated[int | None, _VERSION_THEN], "refused": RefusedVersion | None}
Champion: Any = _typed_dict("Champion", {"checked_at": str | None, **_champion})
_ready: dict[str, Any] = {"ready": bool, "model": ModelVersion | None, "from": _ORIGIN | None}
Ready: Any = _typed_dict("Ready", _ready | {"tracking_server": TrackingServer, "champion": Champion})
