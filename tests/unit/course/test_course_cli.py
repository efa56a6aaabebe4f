"""The command `course`: what it says about words that it does not know, and `python -m course`."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["walk"], "No such command 'walk'."),
        (["chekpoint"], "No such command 'chekpoint'. Did you mean 'checkpoint'?"),
        (["run", "--timout", "3"], "No such option '--timout'. Did you mean '--timeout'?"),
        (["run", "--timeout", "0"], "Invalid value for '--timeout': 0.0 is not in the range x>=1."),
    ],
)
def test_a_misspelt_word_is_named(fake, words, message):
    done = fake.invoke(*words)
    assert done.exit_code == 2 and f"Error: {message}\n" in done.stderr and not done.stdout
    assert not fake.state.exists()


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_lists_the_commands(fake, word):
    done = fake.invoke(word)
    assert done.exit_code == 0 and "Run CHAPTERS from top to bottom" in done.stdout


def test_python_m_course_is_the_same_command(fake):
    done = subprocess.run(
        [sys.executable, "-m", "course", "run", "7"], capture_output=True, text=True, env=fake.environment()
    )
    assert done.returncode == 1 and f"Error: There are no chapters under {fake.root}" in done.stderr
