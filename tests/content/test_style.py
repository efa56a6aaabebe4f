"""The code has one style."""

import subprocess
import sys

from fake_course import CHECKOUT


def test_ruff_finds_nothing():
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments, CHECKOUT], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
