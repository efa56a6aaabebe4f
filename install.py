"""Set the course up in .venv, from the hash-locked requirements.lock.

    python3 install.py          # what `make` runs before anything else; Windows users run it directly

Needs only Python's standard library. The first run takes about a minute with a warm package cache; a run with
nothing to do returns at once. An interrupted run is mended by the next one: the stamp is written last.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.realpath(__file__))
VENV = os.path.join(ROOT, ".venv")
LOCK = os.path.join(ROOT, "requirements.lock")
STAMP = os.path.join(VENV, "course-is-set-up")
OLDEST, NEWEST = (3, 11), (3, 13)
WINDOWS = os.name == "nt"
BIN = os.path.join(VENV, "Scripts" if WINDOWS else "bin")
PYTHON = os.path.join(BIN, "python.exe" if WINDOWS else "python")
UV = os.path.join(BIN, "uv.exe" if WINDOWS else "uv")


def fail(sentence):
    sys.exit("install.py: " + sentence)


def hand_over():
    """Let the newest supported Python on PATH run this script."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which("python3.%d" % minor)
        if found and subprocess.call([found, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            sys.exit(subprocess.call([found, os.path.abspath(__file__)]))
    fail(
        "this is Python %d.%d, and the course runs on Python 3.11, 3.12 or 3.13, none of which is on PATH: install one "
        "and run this script with it, for example `python3.12 install.py`." % sys.version_info[:2]
    )


def digest(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def wanted():
    """Two marks: what .venv itself stands on (its place, its Python), and what belongs into it."""
    contents = []
    for name in (LOCK, os.path.join(ROOT, "pyproject.toml"), os.path.abspath(__file__)):
        with open(name, encoding="utf-8") as file:
            contents.append(file.read())
    return [digest(ROOT, sys.version, sys.base_prefix), digest(*contents)]


def stamped():
    """The marks of the last set-up that reached its end."""
    try:
        with open(STAMP) as file:
            return file.read().split() if os.path.exists(PYTHON) else []
    except OSError:
        return []


def lock_entry(name):
    """The lock's lines for one package: its pin and its hashes."""
    with open(LOCK, encoding="utf-8") as file:
        return re.search(r"^%s==(?:.*\\\n)*.*\n" % name, file.read(), re.MULTILINE).group(0)


def run(*command):
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        fail(
            "`%s` failed with exit code %d; its message stands above. Run the same command again once that is mended."
            % (" ".join(command[:4]), done.returncode)
        )


def new_venv():
    """An empty .venv with uv, by pip and the lock's hash."""
    if subprocess.run([sys.executable, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL).returncode:
        fail(
            "this Python cannot make environments, because `ensurepip` is missing: on Debian and Ubuntu install it "
            "with `sudo apt install python%d.%d-venv`, then run the same command again." % sys.version_info[:2]
        )
    run(sys.executable, "-m", "venv", "--clear", VENV)
    with tempfile.TemporaryDirectory() as folder:
        only_uv = os.path.join(folder, "uv.txt")
        with open(only_uv, "w", encoding="utf-8") as file:
            file.write(lock_entry("uv"))
        pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run(*pip, "--no-deps", "--require-hashes", "-r", only_uv)


def main():
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        hand_over()
    marks, last = wanted(), stamped()
    if last == marks:
        return
    print("Setting up the course in .venv (once; a minute, and more where packages must be downloaded)", flush=True)
    if last:
        os.remove(STAMP)
    # without a stamp .venv may be half, and moved or on another Python its programs start the wrong one: begin anew
    if last[:1] != marks[:1]:
        new_venv()
    # bytecode: without it the first `import mlflow` takes 6 s instead of 2, and every kernel pays for it
    run(UV, "pip", "sync", "--python", PYTHON, "--require-hashes", "--compile-bytecode", LOCK)
    run(UV, "pip", "install", "--python", PYTHON, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    with open(STAMP, "w") as file:
        file.write("\n".join(marks))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("stopped. Run the same command again: it begins the set-up anew, without downloading anything twice.")
