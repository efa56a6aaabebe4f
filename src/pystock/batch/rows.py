"""The rows of a batch job, chunk by chunk: those that a model can score as numbers, the others with line and reason.

A row is bad if a number is missing, infinite or no number, and in a CSV file if it has more or fewer values than the
header. In CSV a row is a line: a value holds no line break, even between quotes. Empty lines are no rows.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pystock.pipeline import PipelineError
from pystock.runs import reason

FORMATS = {".csv": "csv", ".parquet": "parquet"}
MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "<NA>")
LONGEST_LINE = 1 << 20  # bytes; a line beyond it is no row, and would be held in memory whole
PIECE = 500  # lines: where one of them is bad, these are looked at one by one
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[+-]?(?:(inf|infinity)|nan)", re.IGNORECASE)


class BatchError(PipelineError):
    """What a batch job cannot do; the message is one sentence: the thing, the reason and the mend."""


class InputError(BatchError):
    """The input is to blame: the same input would fail again, so that its partial work is of no use."""


class Bad(NamedTuple):
    """A row that is not scored. `line`: of a CSV file the line, the header is 1; of Parquet the row, counted from 1."""

    line: int
    reason: str
    text: str


class Chunk(NamedTuple):
    """`carried` are the columns that are no features, `numbers` the features, shape (features, rows), float64, finite;
    both of the good rows alone, in order. `position` is where the next chunk begins, `share` how much of the file lies
    before it (0 to 1).
    """

    carried: pa.Table
    numbers: np.ndarray
    bad: list[Bad]
    position: list[int]
    share: float


class Part(NamedTuple):
    """One input file: its name relative to the input, and `chunks(position, rows)`, which reads on from a position
    (None: the beginning) in chunks of that many rows, in CSV about as many. The chunks depend on nothing else, so that
    a resumed job has the same as an unbroken one."""

    name: str
    path: Path
    carried: pa.Schema
    chunks: Callable[[list[int] | None, int], Iterator[Chunk]]


def files(place: Path) -> list[tuple[str, Path]]:
    """The files of an input in the order of their names, each with its name relative to the input.

    InputError where there are none, and where one is neither CSV nor Parquet.
    """
    if place.is_file():
        found = [(place.name, place)]
    elif place.is_dir():
        inside = ((path.relative_to(place), path) for path in place.rglob("*"))
        found = sorted((name.as_posix(), path) for name, path in inside if path.is_file() and not _hidden(name))
        if not found:
            raise InputError(f"the input {place} is a folder without files: name one that holds CSV or Parquet files.")
    else:
        raise InputError(f"the input {place} does not exist: name a CSV or Parquet file, or a folder of them.")
    for name, path in found:
        if path.suffix.lower() not in FORMATS:
            raise InputError(
                f"the input file {name} is neither .csv nor .parquet by its name: rename it, or begin its name with _ "
                "to have it left out."
            )
    return found


def _hidden(name: Path) -> bool:
    return any(part.startswith(("_", ".")) for part in name.parts)


def open_part(name: str, path: Path, features: list[str], taken: tuple[str, ...]) -> Part:
    """Look at a file's columns; its rows are read by `chunks`. `taken` are names that carried columns may not have.

    InputError for a file that is empty, damaged, in another format or not UTF-8, and for columns that are missing,
    stand there twice, are taken, or are of a type that is no number.
    """
    try:
        return (_csv if FORMATS[path.suffix.lower()] == "csv" else _parquet)(name, path, features, taken)
    except OSError as error:
        raise InputError(f"the input file {name} cannot be read ({reason(error)}): mend it, or leave it out.") from None


def _columns(name: str, found: list[str], features: list[str], taken: tuple[str, ...]) -> list[str]:
    """The carried ones of the columns that were found."""
    twice = [column for column in dict.fromkeys(found) if found.count(column) > 1]
    if twice:
        raise InputError(f"the input file {name} has the column {twice[0]!r} twice: rename one, or leave it out.")
    missing = [column for column in features if column not in found]
    if missing:
        hint = ""
        if len(found) == 1 and (other := next((mark for mark in ";\t|" if mark in found[0]), None)):
            hint = f", its values seem to be separated by {other!r} and not by commas"
        raise InputError(
            f"the input file {name} lacks {_few(missing)} of the model's {len(features)} columns{hint}: add what is "
            "missing, or name another model."
        )
    carried = [column for column in found if column not in features]
    if clash := [column for column in carried if column in taken]:
        raise InputError(
            f"the input file {name} has a column {clash[0]!r}, and so will the output: rename it, or leave it out."
        )
    return carried


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _number(column: str, text: str) -> tuple[float, str]:
    """The number that a text is, and why it is none that a model can score; "" where it is one."""
    text = text.strip(" \t")
    if _NUMBER.fullmatch(text):
        value = float(text)
        return value, f"{column} is infinite ({text[:40]})" if math.isinf(value) else ""
    if text in MISSING:
        return math.nan, f"{column} is missing"
    if other := _NO_NUMBER.fullmatch(text):
        return math.nan, f"{column} is {'infinite' if other[1] else 'missing'} ({text})"
    return math.nan, f"{column} is {text[:40]!r}, which is no number"


# CSV --------------------------------------------------------------------------------------------------------------


class _Csv(NamedTuple):
    name: str
    header: list[str]
    features: list[str]
    carried: list[str]


def _csv(name: str, path: Path, features: list[str], taken: tuple[str, ...]) -> Part:
    with open(path, "rb") as file:
        first = file.readline(LONGEST_LINE)
        sample = file.read(1 << 18)
    if not first.strip():
        raise InputError(f"the input file {name} is empty or begins with an empty line: its first line names columns.")
    if first.startswith(b"PAR1"):
        raise InputError(f"the input file {name} is Parquet inside: rename it to .parquet.")
    if len(first) == LONGEST_LINE:
        raise InputError(f"the input file {name} has a first line of more than 1 MB: its first line names columns.")
    try:
        header = next(csv.reader([_decoded(name, first, 1).removeprefix("\ufeff")], strict=True))
    except csv.Error as error:
        raise InputError(f"the header of {name} cannot be read ({error}): write it as one line of names.") from None
    carried = _columns(name, header, features, taken)
    about = _Csv(name, header, features, carried)
    size, lines = path.stat().st_size, max(sample.count(b"\n"), 1)
    length = max(len(sample) / lines, 1)  # of a line, about

    def chunks(position: list[int] | None, rows: int) -> Iterator[Chunk]:
        offset, line = position or (len(first), 2)
        with open(path, "rb") as file:
            while block := _whole_lines(name, file, offset, int(rows * length)):
                lines = _lines(block)
                table, numbers, bad = _rows(about, block, line, lines)
                line += lines
                offset += len(block)
                yield Chunk(table, numbers, bad, [offset, line], offset / size)

    return Part(name, path, pa.schema([(column, pa.string()) for column in carried]), chunks)


def _whole_lines(name: str, file: BinaryIO, offset: int, size: int) -> bytes:
    """The lines from `offset` on, `size` bytes and what is left of the last line, in one piece."""
    try:
        file.seek(offset + size - 1)
        rest = file.readline(LONGEST_LINE)
        if len(rest) == LONGEST_LINE:
            raise InputError(f"the input file {name} has a line of more than 1 MB: mend it.")
        file.seek(offset)
        return file.read(size - 1 + len(rest))
    except OSError as error:
        raise BatchError(f"the input file {name} cannot be read ({reason(error)}): mend it.") from None


def _lines(block: bytes) -> int:
    ends = np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n"))  # four times as fast as bytes.count
    return int(ends) + (not block.endswith(b"\n"))


def _rows(about: _Csv, block: bytes, line: int, count: int) -> tuple[pa.Table, np.ndarray, list[Bad]]:
    """The good and the bad rows of `count` whole lines, of which the first is number `line`."""
    table = _read(about, block, count)
    if table is not None:
        numbers = np.empty((len(about.features), len(table)))
        for row, column in zip(numbers, about.features):
            row[:] = table[column].to_numpy()  # a missing one is NaN
        carried, good = table.select(about.carried), np.isfinite(numbers).all(axis=0)
        if good.all():
            return carried, numbers, []
        lines = block.split(b"\n")
        bad = [Bad(line + at, *_judged(about, lines[at], line + at)[1:]) for at in np.flatnonzero(~good).tolist()]
        return carried.filter(pa.array(good)), numbers[:, good], bad
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if len(lines) > PIECE:
        pieces = [
            _rows(about, b"\n".join(piece := lines[at : at + PIECE]) + b"\n", line + at, len(piece))
            for at in range(0, len(lines), PIECE)
        ]
        tables, numbers, bad = zip(*pieces)
        return pa.concat_tables(tables), np.concatenate(numbers, axis=1), [one for some in bad for one in some]
    return _one_by_one(about, lines, line)


def _read(about: _Csv, block: bytes, count: int) -> pa.Table | None:
    """All `count` lines of a block as a table, a row for each; None where that cannot be, and why is looked for."""
    types = {column: pa.string() for column in about.carried} | {column: pa.float64() for column in about.features}
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(block),
            pa.csv.ReadOptions(column_names=about.header),
            convert_options=pa.csv.ConvertOptions(
                column_types=types, null_values=MISSING, strings_can_be_null=False, auto_dict_encode=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    # Quotes that are not closed and empty lines make fewer rows, and a carriage return of its own makes more.
    if len(table) != count or (b"\r" in block and block.count(b"\r") != block.count(b"\r\n")):
        return None
    return table


def _one_by_one(about: _Csv, lines: list[bytes], line: int) -> tuple[pa.Table, np.ndarray, list[Bad]]:
    good, bad = [], []
    for at, raw in enumerate(lines, start=line):
        if raw in (b"", b"\r"):
            continue
        fields, reason, text = _judged(about, raw, at)
        if reason:
            bad.append(Bad(at, reason, text))
        else:
            good.append(fields)
    columns = dict(zip(about.header, zip(*good))) if good else dict.fromkeys(about.header, ())
    schema = pa.schema([(column, pa.string()) for column in about.carried])
    table = pa.table([pa.array(columns[column], pa.string()) for column in about.carried], schema)
    numbers = np.array([[float(text) for text in columns[column]] for column in about.features])
    return table, numbers.reshape(len(about.features), len(good)), bad


def _judged(about: _Csv, raw: bytes, line: int) -> tuple[list[str], str, str]:
    """The values of a line, why it cannot be scored ("" where it can), and its text."""
    text = _decoded(about.name, raw, line).rstrip("\r\n")
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        if "unexpected end" in str(error):
            return [], "a quote is not closed in this line", text
        try:
            fields = next(csv.reader([text]), [])  # 'ab"c"' is odd, but no mistake
        except csv.Error as again:
            return [], "a carriage return stands within this line" if "\r" in text else str(again), text
    if len(fields) != len(about.header):
        values = "1 value" if len(fields) == 1 else f"{len(fields)} values"
        return fields, f"it has {values}, and the header has {len(about.header)}", text
    values = dict(zip(about.header, fields))
    reasons = [why for column in about.features if (why := _number(column, values[column])[1])]
    return fields, "; ".join(reasons), text


def _decoded(name: str, raw: bytes, line: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InputError(f"the input file {name} is not UTF-8 in line {line:,}: save it as UTF-8.") from None


# Parquet ----------------------------------------------------------------------------------------------------------


def _parquet(name: str, path: Path, features: list[str], taken: tuple[str, ...]) -> Part:
    try:
        file = _open_parquet(path)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"the input file {name} is no whole Parquet file ({reason(error)}): it may be cut, so copy it again."
        ) from None
    with file:
        schema, about = file.schema_arrow.remove_metadata(), file.metadata
    carried = _columns(name, schema.names, features, taken)
    for column in features:
        kind = schema.field(column).type
        if not (_is_text(kind) or _is_number(kind)):
            raise InputError(f"the column {column!r} of {name} is of type {kind}, which is no number: convert it.")
    starts = np.cumsum([0] + [about.row_group(group).num_rows for group in range(about.num_row_groups)]).tolist()

    def chunks(position: list[int] | None, rows: int) -> Iterator[Chunk]:
        at = position[0] if position else 0
        try:
            for table in _tables(path, starts, at, rows):
                good_rows, numbers, bad = _good_and_bad(table, carried, features, at)
                at += len(table)
                yield Chunk(good_rows, numbers, bad, [at], at / starts[-1])
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"the input file {name} is damaged behind row {at:,} ({reason(error)}): copy it again."
            ) from None

    return Part(name, path, pa.schema([schema.field(column) for column in carried]), chunks)


def _open_parquet(path: Path) -> pa.parquet.ParquetFile:
    # Read piece by piece: the bytes of a whole row group need not be in memory
    return pa.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind)


def _tables(path: Path, starts: list[int], at: int, rows: int) -> Iterator[pa.Table]:
    """The rows from number `at` on, in tables of `rows` rows, whatever the row groups are; the last may have fewer."""
    group = max(int(np.searchsorted(starts, at, side="right")) - 1, 0)
    skip, held = at - starts[group], None  # rows before `at`, and rows that do not fill a table yet
    with _open_parquet(path) as file:
        groups = list(range(group, len(starts) - 1))
        for batch in file.iter_batches(batch_size=rows, row_groups=groups) if groups else ():
            table = pa.Table.from_batches([batch]).slice(skip).replace_schema_metadata()
            skip = max(skip - len(batch), 0)
            held = pa.concat_tables([held, table]) if held else table
            while len(held) >= rows:
                yield held.slice(0, rows)
                held = held.slice(rows)
        if held is not None and len(held):
            yield held


def _good_and_bad(
    table: pa.Table, carried: list[str], features: list[str], before: int
) -> tuple[pa.Table, np.ndarray, list[Bad]]:
    numbers, texts = np.empty((len(features), len(table))), {}
    for row, column in zip(numbers, features):
        values = table[column]
        if _is_text(values.type):
            texts[column] = ["" if text is None else text for text in values.to_pylist()]
            row[:] = [_number(column, text)[0] for text in texts[column]]
        else:
            row[:] = values.cast(pa.float64(), safe=False).to_numpy()  # a missing one is NaN
    good = np.isfinite(numbers).all(axis=0)
    kept = table.select(carried)
    if good.all():
        return kept, numbers, []
    bad = []
    rows = table.filter(pa.array(~good)).to_pylist()
    for at, row in zip(np.flatnonzero(~good).tolist(), rows):
        reasons = []
        for value, column in zip(numbers[:, at].tolist(), features):
            if column in texts:
                reasons.append(_number(column, texts[column][at])[1])
            elif not math.isfinite(value):
                reasons.append(f"{column} is {'missing' if math.isnan(value) else f'infinite ({value})'}")
        bad.append(Bad(before + at + 1, "; ".join(filter(None, reasons)), _json(row)))
    return kept.filter(pa.array(good)), numbers[:, good], bad


def _json(row: dict) -> str:
    odd = {name: str(value) for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    return json.dumps(row | odd, default=str, ensure_ascii=False)
