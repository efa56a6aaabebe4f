"""The code keeps one style."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=lambda words: words[0])
def test_ruff_finds_nothing(arguments):
    done = subprocess.run([sys.executable, "-m", "ruff", *arguments, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
