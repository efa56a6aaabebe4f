"""install.py on a copy with a lock of a few small packages; with the real lock: tests/slow/test_offline.py."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_course import CHECKOUT, clean_environment, until
from messages import assert_on_page

pytestmark = pytest.mark.skipif(os.name == "nt", reason="paths and signals of POSIX")

SMALL = ("uv", "pip", "hatchling", "editables", "packaging", "pathspec", "pluggy", "trove-classifiers")
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "small"
version = "1"
[project.optional-dependencies]
dev = ["uv", "pip", "hatchling", "editables", "pathspec", "pluggy", "Trove_Classifiers>=1; python_version > '3'"]
deep = ["six"]
[project.scripts]
small = "small:main"
[tool.hatch.build.targets.wheel]
packages = ["small"]
"""


def entries(*names):
    lock = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
    return "".join(re.search(rf"^{name}==(?:.*\\\n)*.*\n", lock, re.MULTILINE)[0] for name in names)


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "Kurs für alle"
    folder.mkdir()
    shutil.copy(CHECKOUT / "install.py", folder)
    (folder / "requirements.lock").write_text(entries(*SMALL))
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "small").mkdir()
    (folder / "small" / "__init__.py").write_text("import sys\ndef main(): print(sys.prefix)\n")
    return folder


def run(*command, cwd=None, **env):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=clean_environment(**env))


def install(folder, *arguments, python=sys.executable, before="", **env):
    """Run `python3 install.py ARGUMENTS`, after the statements `before`."""
    code = f"import runpy, sys\n{before}\nrunpy.run_path('install.py', run_name='__main__')"
    return run(python, *(["-c", code] if before else ["install.py"]), *arguments, cwd=folder, **env)


def has(folder, package):
    return any(folder.glob(f".venv/lib/*/site-packages/{package}"))


def works(folder):
    """Whether the command exists and runs in this folder's environment."""
    return run(folder / ".venv/bin/small").stdout == f"{folder / '.venv'}\n"


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_set_up_from_its_beginning_to_its_mends(copy):
    """One test, because each step needs the one before: killed, mended, repeated, changed, moved."""
    own = {"env": clean_environment(), "start_new_session": True, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "install.py"], cwd=copy, **own)
    until((copy / ".venv/pyvenv.cfg").exists, 60, ".venv")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    program(copy / ".venv/bin/uv", "exit 1")  # what a later kill may leave

    done = install(copy, PIP_USER=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Setting up the course in .venv (once; ")
    assert works(copy)

    for python in (sys.executable, copy / ".venv/bin/python"):  # also from within the activated environment
        done = install(copy, python=python)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    born = (copy / ".venv/pyvenv.cfg").stat().st_mtime_ns
    (copy / "requirements.lock").write_text(entries(*SMALL, "tqdm"))
    assert "Setting up" in install(copy).stdout
    assert (copy / ".venv/pyvenv.cfg").stat().st_mtime_ns == born, "a changed lock rebuilds .venv"
    assert has(copy, "tqdm") and works(copy)
    assert list(copy.glob(".venv/lib/*/site-packages/tqdm/__pycache__/*.pyc")), "no bytecode"

    # the extra `deep` is six, which needs tqdm, which nothing else needs, and packaging, which hatchling needs, too
    small = entries("six", *SMALL).replace(entries("packaging"), "")
    small += f"{entries('tqdm')}    # via six\n{entries('packaging')}    # via\n    #   hatchling\n    #   six\n"
    (copy / "requirements.lock").write_text(small)
    for arguments, deep in [((), True), (("--without", "deep"), False), ((), False), (("--with", "deep"), True)]:
        done = install(copy, *arguments)
        assert (done.returncode, "Setting up" in done.stdout) == (0, bool(arguments) or deep), done.stderr
        assert [has(copy, name) for name in ("six.py", "tqdm", "packaging")] == [deep, deep, True]
        left_out = json.loads((copy / ".venv/course-left-out.json").read_text())
        assert left_out == ({} if deep else {"deep": ["six", "tqdm"]})

    install(copy, "--without", "deep")
    (copy / "requirements.lock").write_text(small.replace("==", "==999."))
    done = install(copy)
    assert done.returncode == 1 and "run the same command again" in done.stderr
    assert_on_page("failed with exit code", done.stderr)
    assert not (copy / ".venv/course-is-set-up").exists()
    (copy / "requirements.lock").write_text(small)
    assert install(copy).returncode == 0
    assert not has(copy, "six.py"), "a failed setup forgets what is left out"

    moved = copy.rename(copy.with_name("elsewhere"))
    assert "Setting up" in install(moved, python=moved / ".venv/bin/python").stdout
    assert works(moved) and not has(moved, "six.py")
    assert install(moved).stdout == ""


def test_a_python_without_ensurepip(copy):
    (copy / "stub").mkdir()
    (copy / "stub" / "ensurepip.py").write_text("raise ImportError('No module named ensurepip')")
    done = install(copy, PYTHONPATH=copy / "stub")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"`sudo apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv`, then run" in done.stderr
    assert_on_page("`ensurepip` is missing", done.stderr)


@pytest.mark.parametrize("version", [(2, 7), (3, 10), (3, 14)])
def test_an_unsupported_python_hands_over_to_a_supported_one(copy, version):
    program(copy / "small/python3.13", "exit 127")  # as pyenv's, where that version is not chosen
    program(copy / "small/python3.12", '[ "$1" = -c ] || { echo "handed over: $*"; exit 7; }')
    program(copy / "small/python3.11", "echo wrong")
    done = install(copy, "--without", "deep", before=f"sys.version_info = {version}", PATH=copy / "small")
    assert (done.returncode, done.stdout) == (7, f"handed over: {copy / 'install.py'} --without deep\n")
    assert not (copy / ".venv").exists()


def test_an_unsupported_python_alone_says_what_to_install(copy):
    done = install(copy, before="sys.version_info = (3, 10)", PATH=copy / "small")
    assert done.returncode == 1 and done.stderr.startswith("install.py: this is Python 3.10, but the course needs ")
    assert done.stderr.endswith("install one and run this script with it, for example `python3.12 install.py`.\n")
    assert_on_page("none of them is on PATH", done.stderr)


def test_ctrl_c_is_a_sentence(copy):
    stop = "import subprocess\ndef stop(*a, **k): raise KeyboardInterrupt\nsubprocess.run = stop"
    done = install(copy, before=stop, HOME="/nowhere")
    assert done.returncode == 1 and "Trace" not in done.stderr
    assert (copy / ".course/home").is_dir(), "uv has no place for its cache"
    assert_on_page("install.py: stopped", done.stderr)


def test_make_lists_its_commands_and_clean_keeps_work(copy):
    shutil.copy(CHECKOUT / "Makefile", copy)
    for name in (".course/store/__pycache__", "work/__pycache__", "src/pystock/__pycache__", ".venv/bin"):
        (copy / name).mkdir(parents=True)
    listed = run("make", cwd=copy).stdout.splitlines()
    wanted = {"course", "lab", "ui", "test", "test-slow", "notebooks", "bench", "clean", "help", "setup", "lock"}
    assert wanted <= {line.split()[0] for line in listed}
    assert all(re.match(r"[a-z-]+ {2,}\S", line) for line in listed)
    run("make", "clean", cwd=copy)
    left = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_dir()}
    assert {".course/store/__pycache__", "work/__pycache__"} <= left
    assert not {".venv", "src/pystock/__pycache__"} & left
