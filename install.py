"""Set the course up in .venv, from the hash-locked requirements.lock.

    python3 install.py          # what `make` runs before anything else; Windows users run it directly

Needs only Python's standard library. The first run takes about half a minute with a warm package cache; a run with
nothing to do returns at once. An interrupted run is mended by the next one: the stamp is written last.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
LOCK = os.path.join(ROOT, "requirements.lock")
STAMP = os.path.join(VENV, "course-is-set-up")
OLDEST, NEWEST = (3, 11), (3, 13)
BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
PYTHON = os.path.join(BIN, "python.exe" if os.name == "nt" else "python")


def fail(sentence):
    sys.exit("install.py: " + sentence)


def supported_python():
    """The interpreter to build .venv with: this one, or the newest supported one on PATH."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which("python3.%d" % minor)
        if found and subprocess.run([found, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            return found
    fail(
        "this is Python %d.%d, and the course runs on Python 3.11, 3.12 or 3.13, none of which is on PATH: install one "
        "and run it with this script, for example `python3.12 install.py`." % sys.version_info[:2]
    )


def fingerprint(python):
    """What .venv is made from. A change of any of it, or of the folder's place, sets up again."""
    digest = hashlib.sha256()
    for name in (LOCK, os.path.join(ROOT, "pyproject.toml"), os.path.abspath(__file__)):
        with open(name, "rb") as file:
            digest.update(file.read())
    version = subprocess.run([python, "-c", "import sys; print(sys.version)"], capture_output=True, text=True).stdout
    digest.update((ROOT + version).encode())
    return digest.hexdigest()


def is_set_up(mark):
    try:
        with open(STAMP) as file:
            return file.read() == mark and os.path.exists(PYTHON)
    except OSError:
        return False


def lock_entry(name):
    """The lock's lines for one package: its pin and its hashes."""
    with open(LOCK) as file:
        found = re.search(r"^%s==(?:.*\\\n)*.*" % name, file.read(), re.MULTILINE)
    return found.group(0) + "\n"


def run(*command):
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        fail(
            "`%s` failed with exit code %d; its message stands above. Run the same command again once that is mended: "
            "it goes on where it stopped." % (" ".join(command[:4]), done.returncode)
        )


def main():
    python = supported_python()
    mark = fingerprint(python)
    if is_set_up(mark):
        return
    print("Setting up the course in .venv (once; half a minute, or a few minutes to download 1 GB first)", flush=True)
    if subprocess.run([python, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL).returncode:
        fail(
            "this Python cannot make environments, because `ensurepip` is missing: on Debian and Ubuntu install it with "
            "`sudo apt install python%d.%d-venv`, then run the same command again." % sys.version_info[:2]
        )
    if os.path.exists(STAMP):
        os.remove(STAMP)
    if not os.path.exists(os.path.join(BIN, "uv.exe" if os.name == "nt" else "uv")):
        run(python, "-m", "venv", "--clear", VENV)
        with tempfile.TemporaryDirectory() as folder:
            only_uv = os.path.join(folder, "uv.txt")
            with open(only_uv, "w") as file:
                file.write(lock_entry("uv"))
            run(
                PYTHON,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--require-hashes",
                "-r",
                only_uv,
            )
    uv = os.path.join(BIN, "uv.exe" if os.name == "nt" else "uv")
    # bytecode: without it the first `import mlflow` takes 6 s instead of 2, and every kernel pays for it
    run(uv, "pip", "sync", "--python", PYTHON, "--require-hashes", "--compile-bytecode", LOCK)
    run(uv, "pip", "install", "--python", PYTHON, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    with open(STAMP, "w") as file:
        file.write(mark)


if __name__ == "__main__":
    main()
