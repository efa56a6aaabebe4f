"""The rows of a batch job, chunk by chunk: those that a model can score as numbers, the others with line and reason.

A row is bad if a number is missing, infinite or not a number, and in a CSV file if it has more or fewer values than the
header. In CSV a row is a line: a value has no line break, even between quotes. Empty lines are not rows.
"""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pystock.errors import reason
from pystock.pipeline import PipelineError

FORMATS = {".csv": "csv", ".parquet": "parquet"}
MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "<NA>")
TOO_LONG = "a line of more than 1 MB: split that line, or check for a missing line break"
LONGEST_LINE = 1 << 20  # bytes; a longer line is not a row, and would be in memory as a whole
PIECE = 500  # lines: if one of them is bad, they are checked one by one


class BatchError(PipelineError):
    """Raised if a batch job cannot do something; the message says what is wrong, why, and how to fix it."""


class InputError(BatchError):
    """Raised for an invalid input: it would fail again, so its partial work is useless."""


class Bad(NamedTuple):
    """A row that is not scored. `line`: in a CSV file the line, the header is 1; in Parquet the row, counted from 1."""

    line: int
    reason: str
    text: str


class Chunk(NamedTuple):
    """The rows that are read in one go.

    `carried` are the columns that are not features, `numbers` the features, shape (features, rows), float64, finite;
    both of the good rows alone, in order. It ends at `share` (0 to 1) of the file.
    """

    carried: pa.Table
    numbers: np.ndarray
    bad: list[Bad]
    share: float


def files(place: Path) -> list[tuple[str, Path]]:
    """Return the files of an input in the order of their names, each with its name relative to the input.

    InputError if there are none, and for one that is neither CSV nor Parquet.
    """
    if not place.exists():
        raise InputError(f"the input {place} does not exist: give a CSV or Parquet file, or a folder of them.")
    found = [(place.name, place)]
    if place.is_dir():
        inside = sorted((path.relative_to(place), path) for path in place.rglob("*") if path.is_file())
        shown = [each for each in inside if not any(part.startswith(("_", ".")) for part in each[0].parts)]
        found = sorted((name.as_posix(), path) for name, path in shown)
    if not found:
        raise InputError(f"the input {place} is a folder without files: give a folder of CSV or Parquet files.")
    for name, path in found:
        if path.suffix.lower() not in FORMATS:
            fix = "rename it, or begin its name with _ so that it is ignored"
            raise InputError(f"the input file {name} does not end in .csv or .parquet: {fix}.")
    return found


def _carried_columns(name: str, found: list[str], features: list[str], taken: tuple[str, ...]) -> list[str]:
    """Check the columns of a file; return those that are not features."""
    what = f"the input file {name}"
    if twice := next((column for column in found if found.count(column) > 1), None):
        raise InputError(f"{what} has the column {twice!r} twice: rename or remove one.")
    if missing := [column for column in features if column not in found]:
        some = ", ".join(map(repr, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        other = next((mark for mark in ";\t|" if mark in found[0]), None) if len(found) == 1 else None
        hint = f", and its values seem to be separated by {other!r} instead of commas" if other else ""
        lacks = f"lacks {some} of the model's {len(features)} columns{hint}"
        raise InputError(f"{what} {lacks}: add what is missing, or use another model.")
    carried = [column for column in found if column not in features]
    if clash := next((column for column in carried if column in taken), None):
        raise InputError(f"{what} has a column {clash!r}, which the output also gets: rename or remove it.")
    return carried


def _number(column: str, value: object) -> tuple[float, str]:
    """Return a value as a number, and the reason why a model cannot score it; "" if it can."""
    text = str(value).strip(" \t")
    if text in MISSING:
        return math.nan, f"{column} is missing"
    try:
        number = float(text) if text.isascii() and "_" not in text else None  # Python takes 1_000 and Arabic digits
    except ValueError:
        number = None
    if number is None:
        return math.nan, f"{column} is {text[:40]!r}, which is not a number"
    kind = "infinite" if math.isinf(number) else "missing"
    return number, "" if math.isfinite(number) else f"{column} is {kind} ({text[:40]})"


def _reasons(row: dict[str, Any], features: list[str]) -> str:
    return "; ".join(why for name in features if (why := _number(name, row[name])[1]))


Rows = tuple[pa.Table, np.ndarray, list[Bad]]  # carried columns and numbers of the good rows, and the bad rows


class CsvPart:
    """A CSV file; its name is relative to the input. Lines that pyarrow refuses are checked one by one.

    `chunks` depend on the number of rows alone, so that a resumed job has the same chunks as an unbroken one.
    """

    def __init__(self, name: str, path: Path, features: list[str], taken: tuple[str, ...]):
        self.name, self.what, self.path, self.features = name, f"the input file {name}", path, features
        with path.open("rb") as file:
            first = file.readline(LONGEST_LINE)
            sample = file.read(1 << 18)
        if not first.strip():
            raise InputError(f"{self.what} is empty or begins with an empty line: its first line must name columns.")
        if first.startswith(b"PAR1"):
            raise InputError(f"{self.what} is a Parquet file: rename it to .parquet.")
        try:
            self.header = next(csv.reader([self._decoded(first, 1).removeprefix("\ufeff")], strict=True))
        except csv.Error as error:
            raise InputError(f"the header of {name} cannot be read ({error}): write a line of column names.") from None
        self.carried = pa.schema([(each, pa.string()) for each in _carried_columns(name, self.header, features, taken)])
        self.begin, self.size = len(first), path.stat().st_size
        self.line_length = max(len(sample) / max(sample.count(b"\n"), 1), 1)  # about

    def chunks(self, rows: int, skip: int = 0) -> Iterator[Chunk]:
        """Read in chunks of about `rows` rows, without the first `skip` chunks."""
        line = 2
        try:
            with self.path.open("rb") as file:
                file.seek(self.begin)
                while block := file.read(int(rows * self.line_length)):
                    if not block.endswith(b"\n"):
                        rest = file.readline(LONGEST_LINE)
                        if len(rest) == LONGEST_LINE:
                            raise InputError(f"{self.what} has {TOO_LONG}.")
                        block += rest
                    count = block.count(b"\n") + (not block.endswith(b"\n"))
                    if skip <= 0:
                        yield Chunk(*self._rows(block, line, count), file.tell() / self.size)
                    skip, line = skip - 1, line + count
        except OSError as error:
            raise BatchError(f"{self.what} cannot be read ({reason(error)}): check it and its permissions.") from None

    def _rows(self, block: bytes, line: int, count: int) -> Rows:
        """Return the rows of `count` whole lines, of which the first is number `line`."""
        table = self._read(block, count)
        if table is None:
            return self._with_bad_lines(block.removesuffix(b"\n").split(b"\n"), line)
        carried = table.select(self.carried.names)
        numbers = np.array([table[column].to_numpy() for column in self.features])  # a missing one is NaN
        good = np.isfinite(numbers).all(axis=0)
        if good.all():
            return carried, numbers, []
        lines = block.split(b"\n")
        bad = [Bad(line + at, *self._judge(lines[at], line + at)[1:]) for at in np.flatnonzero(~good).tolist()]
        return carried.filter(pa.array(good)), numbers[:, good], bad

    def _read(self, block: bytes, lines: int) -> pa.Table | None:
        """Read a block as a table with a row for each line; None if it cannot be one."""
        types = dict.fromkeys(self.carried.names, pa.string()) | dict.fromkeys(self.features, pa.float64())
        options = pa.csv.ConvertOptions(column_types=types, null_values=MISSING, strings_can_be_null=False)
        try:
            names = pa.csv.ReadOptions(column_names=self.header)
            table = pa.csv.read_csv(pa.py_buffer(block), names, convert_options=options)
        except pa.ArrowInvalid:
            return None
        # Quotes that are not closed and empty lines make fewer rows, and a carriage return of its own makes more
        whole = len(table) == lines and (b"\r" not in block or block.count(b"\r") == block.count(b"\r\n"))
        return table if whole else None

    def _with_bad_lines(self, lines: list[bytes], line: int) -> Rows:
        """Return the rows of lines that cannot be read at once: a short piece is read line by line."""
        if len(lines) > PIECE:
            pieces = ((at, lines[at : at + PIECE]) for at in range(0, len(lines), PIECE))
            found = [self._rows(b"\n".join(piece) + b"\n", line + at, len(piece)) for at, piece in pieces]
            tables, arrays, bad = zip(*found)
            return pa.concat_tables(tables), np.concatenate(arrays, axis=1), sum(bad, [])
        judged = [(at, *self._judge(raw, at)) for at, raw in enumerate(lines, line) if raw not in (b"", b"\r")]
        good = [values for _, values, why, _ in judged if not why]
        table = pa.Table.from_pylist(good, self.carried)
        numbers = np.array([[float(row[name]) for row in good] for name in self.features])
        return table, numbers, [Bad(at, why, text) for at, _, why, text in judged if why]

    def _judge(self, raw: bytes, line: int) -> tuple[dict[str, str], str, str]:
        """Return the values of a line by column, why it cannot be scored ("" if it can), and its text."""
        text = self._decoded(raw, line).rstrip("\r\n")
        try:
            fields = next(csv.reader([text], strict=True), [])
        except csv.Error as error:
            if "unexpected end" in str(error):
                return {}, "a quote is not closed in this line", text
            try:
                fields = next(csv.reader([text]), [])  # 'ab"c"' is odd, but not a mistake
            except csv.Error as again:
                return {}, "this line contains a carriage return" if "\r" in text else str(again), text
        if len(fields) != len(self.header):
            values = "1 value" if len(fields) == 1 else f"{len(fields)} values"
            return {}, f"it has {values}, but the header has {len(self.header)}", text
        row = dict(zip(self.header, fields))
        return row, _reasons(row, self.features), text

    def _decoded(self, raw: bytes, line: int) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise InputError(f"{self.what} is not UTF-8 in line {line:,}: save it as UTF-8.") from None


class ParquetPart:
    """A Parquet file, read like a CSV file; a feature may be a number or a text."""

    def __init__(self, name: str, path: Path, features: list[str], taken: tuple[str, ...]):
        self.name, self.what, self.path, self.features = name, f"the input file {name}", path, features
        try:
            with self._open() as file:
                schema, self.total = file.schema_arrow.remove_metadata(), file.metadata.num_rows
        except pa.ArrowInvalid as error:
            raise InputError(f"{self.what} is not a complete Parquet file ({reason(error)}): copy it again.") from None
        self.carried = pa.schema([schema.field(each) for each in _carried_columns(name, schema.names, features, taken)])
        for column in features:
            kind, types = schema.field(column).type, pa.types
            tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_null, _is_text)
            if not any(test(kind) for test in tests):
                raise InputError(f"the column {column!r} of {name} has the type {kind}, not a number: convert it.")

    def _open(self) -> pa.parquet.ParquetFile:
        # Read piece by piece: the bytes of a whole row group need not be in memory
        return pa.parquet.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False)

    def chunks(self, rows: int, skip: int = 0) -> Iterator[Chunk]:
        """Read in chunks of at most `rows` rows, without the first `skip` chunks."""
        at = 0
        try:
            with self._open() as file:
                for number, batch in enumerate(file.iter_batches(rows)):
                    if number >= skip:
                        table = pa.Table.from_batches([batch]).replace_schema_metadata()
                        yield Chunk(*self._rows(table, at), (at + len(batch)) / self.total)
                    at += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.what} is damaged after row {at:,} ({reason(error)}): copy it again.") from None

    def _rows(self, table: pa.Table, before: int) -> Rows:
        """Return the rows of a table that has so many rows before it."""
        numbers = np.empty((len(self.features), len(table)))
        for row, column in zip(numbers, self.features):
            values = table[column]
            if _is_text(values.type):
                row[:] = [_number(column, text)[0] for text in values.to_pylist()]
            else:
                row[:] = values.cast(pa.float64(), safe=False).to_numpy()  # a missing one is NaN
        good, carried = np.isfinite(numbers).all(axis=0), table.select(self.carried.names)
        bad = []
        for at, values in zip(np.flatnonzero(~good).tolist(), table.filter(pa.array(~good)).to_pylist()):
            odd = {name: str(one) for name, one in values.items() if one in (math.inf, -math.inf) or one != one}
            text = json.dumps(values | odd, default=str, ensure_ascii=False)
            bad.append(Bad(before + at + 1, _reasons(values, self.features), text))
        return (carried.filter(pa.array(good)), numbers[:, good], bad) if bad else (carried, numbers, bad)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


Part = CsvPart | ParquetPart


def open_part(name: str, path: Path, features: list[str], taken: tuple[str, ...]) -> Part:
    """Check a file's columns; its rows are read by `chunks`. `taken` are names that carried columns may not have.

    Raises InputError for a file that is empty, damaged, in another format or not UTF-8, and for columns that are
    missing, repeated, taken, or of a type that is not a number.
    """
    try:
        if FORMATS[path.suffix.lower()] == "csv":
            return CsvPart(name, path, features, taken)
        return ParquetPart(name, path, features, taken)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({reason(error)}): check the file and its permissions.") from None
