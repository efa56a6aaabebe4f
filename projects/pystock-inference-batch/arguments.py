"""The parameters of the job. MLflow passes them on as text and checks no type, so this does."""

import argparse
import re

from pystock.batch import CHUNK_ROWS, MODEL


def path(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: give the path of a file or a folder")
    return text


def rows(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 999999999")
    return int(text)


def arguments(about: str) -> dict:
    """The parameters by name, as pystock.batch.score takes them; a wrong one ends the script with one line, code 2."""
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    parser.add_argument("--input", type=path, required=True, help="a CSV or Parquet file, or a folder of them")
    parser.add_argument("--output", type=path, required=True, help="a file, or for a folder a folder")
    parser.add_argument("--model", default=MODEL, help=f"models:/NAME@ALIAS or models:/NAME/VERSION, else {MODEL}")
    parser.add_argument("--format", default="", choices=["", "csv", "parquet"], help="of the output; else by its name")
    parser.add_argument("--chunk_rows", type=rows, default=CHUNK_ROWS, help="rows in memory at a time")
    parser.add_argument("--run_time", default="", help="the time beside the predictions; else when the job began")
    parser.add_argument("--force", default="no", nargs="?", const="yes", choices=["yes", "no"], help="score again")
    options = vars(parser.parse_args())
    return options | {"force": options["force"] == "yes"}
