"""Two ways to be another processor: NumPy without its wide vector units, and with other last digits."""

import subprocess
import sys
from pathlib import Path

import processors
from fake_course import clean_environment

LAST_DIGITS = Path(processors.__file__).parent / "last_digits"
FEATURES = """
import hashlib
from pystock.data import load
from pystock.features import volatility
table = volatility(load("sp500"))
print(hashlib.sha256(table.to_csv().encode()).hexdigest(), table.round(9).sum().sum())
"""


def python(code: str, **env: str | Path) -> list[str]:
    command = [sys.executable, "-W", "error::ImportWarning", "-c", code]
    done = subprocess.run(command, env=clean_environment(**env), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_no_wide_vector_unit_is_left_where_all_are_disabled():
    code = "import processors; print(processors.wide_vector_units())"
    env = {"NPY_DISABLE_CPU_FEATURES": processors.wide_vector_units(), "PYTHONPATH": LAST_DIGITS.parent}
    assert python(code, **env) == []


def test_other_last_digits_give_another_digest_of_the_same_features():
    (here, total), (there, other_total) = python(FEATURES), python(FEATURES, PYTHONPATH=LAST_DIGITS)
    assert here != there and round(float(total), 6) == round(float(other_total), 6)
