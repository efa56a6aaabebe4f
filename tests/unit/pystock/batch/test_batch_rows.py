"""The rows of batch inference: what is a number, what is a bad row and why, and chunks that do not show."""

import codecs
import json
import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from pystock.batch.rows import BatchError, files, open_part

TABLE = pd.DataFrame(
    {"x": np.linspace(-1, 1, 700), "day": [f"2015-{1 + at % 12:02d}-01" for at in range(700)], "y": np.arange(700) / 8}
)
FEATURES = ["y", "x"]


def read(path, rows=100_000, skip=0, features=FEATURES):
    """All numbers, carried days and bad rows of a file, and how many chunks there are."""
    part = open_part(path.name, path, features, ("probability",))
    chunks = list(part.chunks(rows, skip))
    days = [day for chunk in chunks for day in chunk.carried["day"].to_pylist()]
    numbers = np.concatenate([np.empty((len(features), 0)), *(chunk.numbers for chunk in chunks)], axis=1)
    return numbers, days, [bad for chunk in chunks for bad in chunk.bad], len(chunks)


@pytest.mark.parametrize("change", {
    "byte order mark": lambda text: codecs.BOM_UTF8 + text,
    "line ends of Windows": lambda text: text.replace(b"\n", b"\r\n"),
    "no last line end": lambda text: text[:-1],
    "empty lines": lambda text: text.replace(b"\n", b"\n\n", 9) + b"\n\r\n",
    "quotes": lambda text: b'"' + text[:-1].replace(b",", b'","').replace(b"\n", b'"\n"') + b'"\n',
    "spaces": lambda text: text.replace(b",0.", b", 0."),
    "plus": lambda text: text.replace(b",0.", b",+0."),
}.items(), ids=lambda change: change[0])  # fmt: skip
def test_csv_may_be_written_in_other_ways(tmp_path, change):
    path = tmp_path / "days.csv"
    path.write_bytes(change[1](TABLE.to_csv(index=False).encode()).replace(b"x,day,y\n\n", b"x,day,y\n"))
    numbers, days, bad, _ = read(path)
    assert bad == [] and days == TABLE["day"].tolist()
    np.testing.assert_array_equal(numbers, TABLE[FEATURES].T)


@pytest.mark.parametrize("kind", [pa.float32(), pa.int64(), pa.string(), pa.decimal128(12, 3)], ids=str)
def test_parquet_may_hold_other_types_of_numbers(tmp_path, kind):
    whole = (TABLE[FEATURES] * 8).round(0 if kind == pa.int64() else 2)
    columns = {name: pa.array(whole[name]).cast(kind, safe=False) for name in FEATURES}
    pa.parquet.write_table(pa.table(columns | {"day": TABLE["day"]}), tmp_path / "days.parquet")
    numbers, _, bad, _ = read(tmp_path / "days.parquet")
    assert bad == []
    np.testing.assert_allclose(numbers, whole.T, rtol=1e-7)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_chunks_and_row_groups_do_not_show_and_the_first_can_be_skipped(tmp_path, form):
    path = tmp_path / f"days.{form}"
    for group in (50, 333) if form == "parquet" else (0,):
        TABLE.to_parquet(path, row_group_size=group) if group else TABLE.to_csv(path, index=False)
        for rows in (1, 37, 333, 700):
            numbers, days, bad, chunks = read(path, rows)
            assert days == TABLE["day"].tolist() and bad == [] and chunks >= 500 // rows
            np.testing.assert_array_equal(numbers, TABLE[FEATURES].T)
            rest, _, _, further = read(path, rows, chunks // 2)
            assert further == chunks - chunks // 2 and (rest.shape[1] < 700 or chunks == 1)
            np.testing.assert_array_equal(rest, numbers[:, 700 - rest.shape[1] :])


BAD = {  # the last value of a row, and what is said of it
    "": "z is missing",
    " ": "z is missing",
    "NA": "z is missing",
    "NaN": "z is missing",
    "-nan": "z is missing (-nan)",
    "null": "z is missing",
    "inf": "z is infinite (inf)",
    "-Infinity": "z is infinite (-Infinity)",
    "1e999": "z is infinite (1e999)",
    "abc": "z is 'abc', which is not a number",
    '"0,5"': "z is '0,5', which is not a number",
    "0,5": "it has 4 values, but the header has 3",
    "1_000": "z is '1_000', which is not a number",
    "0x10": "z is '0x10', which is not a number",
    '"1.5': "a quote is not closed in this line",
    "1.5\r2": "this line contains a carriage return",
}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_bad_csv_rows_have_line_reason_and_text(tmp_path, line_end):
    lines = [f"2015,{at}.5,7" for at in range(2000)]
    where = random.Random(0).sample(range(2000), len(BAD) + 1)
    wanted = {}
    for at, (text, reason) in zip(where, BAD.items()):
        lines[at] = lines[at][:-1] + text
        wanted[at + 2] = (reason, lines[at])
    lines[where[-1]] = "cut"
    wanted[where[-1] + 2] = ("it has 1 value, but the header has 3", "cut")
    (tmp_path / "bad.csv").write_bytes(line_end.join(["day,x,z", *lines, ""]).encode())
    numbers, _, bad, _ = read(tmp_path / "bad.csv", features=["x", "z"])
    assert {line: (reason, text) for line, reason, text in bad} == wanted and len(bad) == len(wanted)
    assert [line for line, _, _ in bad] == sorted(wanted)
    assert numbers[0].tolist() == [at + 0.5 for at in range(2000) if at + 2 not in wanted]


def test_bad_parquet_rows_have_row_reason_and_json(tmp_path):
    x = [0.5, None, float("inf"), float("nan"), 1.0]
    table = pa.table({"day": ["a", "b", "c", "d", "e"], "x": x, "y": ["1", "n.a.", "2", "NA", "3"]})
    pa.parquet.write_table(table, tmp_path / "bad.parquet")
    numbers, days, bad, _ = read(tmp_path / "bad.parquet", rows=2)
    assert (numbers.tolist(), days) == ([[1.0, 3.0], [0.5, 1.0]], ["a", "e"])
    assert [(line, reason) for line, reason, _ in bad] == [
        (2, "y is 'n.a.', which is not a number; x is missing"),
        (3, "x is infinite (inf)"),
        (4, "y is missing; x is missing"),
    ]
    assert json.loads(bad[1].text) == {"day": "c", "x": "inf", "y": "2"}


@pytest.mark.parametrize("seed", range(3))
def test_a_row_does_not_depend_on_the_rows_around_it(tmp_path, seed):
    """Odd texts, read one by one and all at once: blocks without mistakes take another way through the code."""
    draw = random.Random(seed)
    odd = [*BAD, "1", "-1.5e-7", "+.5", "5.", " 2\t", '"3"', '" 4 "', "+-1", "--1", "1e", "e5", ".", "-", "infinity!"]
    odd += ["nan(1)", "1.5f", "1d5", "٣", "1 2", '1"2', '"1"2', "NULL ", "None", "true", "1e-999", "00012", "1\x002"]
    letters = "0123456789+-.eEnNaAiIfF_ \t\"'x"
    odd += ["".join(draw.choice(letters) for _ in range(draw.randrange(6))) for _ in range(50)]
    lines = []
    for _ in range(3000):
        share = draw.choice([0, 0.001, 0.3])
        value = [draw.choice(odd) if draw.random() < share else str(draw.gauss(0, 1)) for _ in range(2)]
        lines.append(",".join([draw.choice(["day", '"a,b"', " x "]), *value]))
    (tmp_path / "odd.csv").write_bytes(("day,x,y\n" + "\n".join(lines) + "\n").encode())
    one, whole = read(tmp_path / "odd.csv", 1), read(tmp_path / "odd.csv")
    assert one[1:3] == whole[1:3]
    np.testing.assert_array_equal(one[0], whole[0])
    assert len(one[1]) + len(one[2]) == len(lines) and len(one[2]) > 300 and all(bad.reason for bad in one[2])


CSV, PARQUET = TABLE.to_csv(index=False), TABLE.to_parquet()
WITH_BOOL, ONE_COLUMN = TABLE.assign(x=True).to_parquet(), TABLE[["day"]].to_parquet()


@pytest.mark.parametrize(("form", "content", "message"), [
    ("parquet", ONE_COLUMN, "days.parquet lacks 'y', 'x' of the model's 2"),
    ("csv", CSV.replace(",", ";"), "its values seem to be separated by ';'"),
    ("csv", CSV.encode("utf-16"), "days.csv is not UTF-8 in line 1:"),
    ("csv", CSV.replace("2015-01-01", "Jänner").encode("latin-1"), "days.csv is not UTF-8 in line 2:"),
    ("parquet", CSV, "days.parquet is not a complete Parquet file"),
    ("csv", PARQUET, "days.csv is a Parquet file"),
    ("csv", "x,x,y\n", "has the column 'x' twice"),
    ("csv", "x,y,probability\n", "has a column 'probability', which the output also gets"),
    ("parquet", WITH_BOOL, "the column 'x' of days.parquet has the type bool"),
    ("csv", "day,x,y\n" + "a,1,2\n" * 50_000 + "9" * 3_000_000, "has a line of more than 1 MB"),
    ("txt", "", "days.txt does not end in .csv or .parquet"),
], ids=lambda each: str(each)[:40] if isinstance(each, str) else "bytes")  # fmt: skip
def test_an_input_that_cannot_be_read_is_one_sentence(tmp_path, form, content, message):
    path = tmp_path / f"days.{form}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BatchError) as error:
        read(files(path)[0][1], rows=10)
    assert message in str(error.value) and "\n" not in str(error.value) and str(error.value).endswith(".")


def test_hidden_files_are_no_input(tmp_path):
    (tmp_path / "_hidden.csv").touch()
    (tmp_path / ".git").mkdir()
    with pytest.raises(BatchError, match="is a folder without files"):
        files(tmp_path)
