"""The code keeps one style, and its types agree."""

import subprocess
import sys

import pytest
from fake_course import CHECKOUT


@pytest.mark.parametrize("words", ["ruff check", "ruff format --check", "mypy"])
def test_tool_finds_nothing(words):
    done = subprocess.run([sys.executable, "-m", *words.split()], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
