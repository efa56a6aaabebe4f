"""Set the course up in .venv, from the hash-locked requirements.lock.

    python3 install.py                  # what `make` runs before anything else; on Windows you run it yourself
    python3 install.py --without deep   # without Keras and TensorFlow, which chapters 06 and 09 need
    python3 install.py --with deep      # with them again

The choice holds until .venv is removed. Needs only Python's standard library. The first run takes about a minute with a
warm package cache; a run with nothing to do returns at once. After an interrupted run the next one continues: the stamp
is written last.
"""

import argparse
import hashlib
import json
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
LEFT_OUT = os.path.join(VENV, "course-left-out.json")  # what `course` reads, too: {"deep": [its packages]}
OPTIONAL = ("deep",)  # the extras of pyproject.toml that a setup can do without
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
        python = shutil.which("python3.%d" % minor)
        if python and subprocess.call([python, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            sys.exit(subprocess.call([python, os.path.abspath(__file__)] + sys.argv[1:]))
    fail(
        "this is Python %d.%d, but the course needs Python 3.11, 3.12 or 3.13, and none of them is on PATH: install "
        "one and run this script with it, for example `python3.12 install.py`." % sys.version_info[:2]
    )


def digest(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read(name):
    with open(name, encoding="utf-8") as file:
        return file.read()


def expected_marks(without):
    """Return two marks: one of .venv itself (its place, its Python), one of its contents."""
    contents = [read(LOCK), read(os.path.join(ROOT, "pyproject.toml")), read(os.path.abspath(__file__))]
    return [digest(ROOT, sys.version, sys.base_prefix), digest(*(contents + sorted(without)))]


def stamped_marks():
    """Return the marks of the last setup that was completed."""
    try:
        return read(STAMP).split() if os.path.exists(PYTHON) else []
    except OSError:
        return []


def left_out():
    """Return the extras that .venv was set up without."""
    try:
        return set(json.loads(read(LEFT_OUT)))
    except (OSError, ValueError):
        return set()


def lock_entries():
    """Return the lock by package: the lines with its pin, its hashes and, after `# via`, the packages that need it."""
    entries = re.findall(r"^(?:[^ #\n].*\n)(?: .*\n)*", read(LOCK), re.MULTILINE)
    return {entry.partition("==")[0]: entry for entry in entries}


def only_for(extra, entries):
    """Return the packages of the lock that nothing but this extra of pyproject.toml needs, sorted."""
    import tomllib  # not in the Pythons that are too old

    project = tomllib.loads(read(os.path.join(ROOT, "pyproject.toml")))["project"]
    extras = project.get("optional-dependencies", {})
    declared = sum([extras[name] for name in extras if name != extra], project.get("dependencies", []))
    needed = {re.match(r"[\w.-]+", line).group(0).lower().replace("_", "-") for line in declared}
    parents = {name: set(re.findall(r"^ +# +(?:via +)?(\S+)$", entry, re.MULTILINE)) for name, entry in entries.items()}
    size = 0
    while size < len(needed):
        size = len(needed)
        needed |= {name for name in entries if parents[name] & needed}
    return sorted(set(entries) - needed)


def run(*command):
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        fail(
            "`%s` failed with exit code %d: fix the cause, which is shown above, then run the same command again."
            % (" ".join(command[:4]), done.returncode)
        )


def new_venv():
    """Create an empty .venv and install uv into it, with pip and the lock's hash."""
    if subprocess.run([sys.executable, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL).returncode:
        fail(
            "this Python cannot create virtual environments, because `ensurepip` is missing: on Debian and Ubuntu run "
            "`sudo apt install python%d.%d-venv`, then run the same command again." % sys.version_info[:2]
        )
    run(sys.executable, "-m", "venv", "--clear", VENV)
    with tempfile.TemporaryDirectory() as folder:
        only_uv = os.path.join(folder, "uv.txt")
        with open(only_uv, "w", encoding="utf-8") as file:
            file.write(lock_entries()["uv"])
        pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run(*pip, "--no-deps", "--require-hashes", "-r", only_uv)


def sync(without):
    """Install exactly the packages of the lock in .venv, except for those that are left out."""
    entries = lock_entries()
    omitted = {extra: only_for(extra, entries) for extra in without}
    # before the first package changes: an interrupted setup is continued with the same choice
    with open(LEFT_OUT, "w") as file:
        json.dump(omitted, file)
    names = set(entries).difference(*omitted.values())
    with tempfile.TemporaryDirectory() as folder:
        lock = os.path.join(folder, "requirements.txt")
        with open(lock, "w", encoding="utf-8") as file:
            file.writelines(entries[name] for name in sorted(names))
        # bytecode: without it the first `import mlflow` takes 6 s instead of 2, and so does each kernel's
        run(UV, "pip", "sync", "--python", PYTHON, "--require-hashes", "--compile-bytecode", lock)


def main():
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        hand_over()
    parser = argparse.ArgumentParser(description="Set the course up in .venv.")
    parser.add_argument("--without", choices=OPTIONAL, help="leave out Keras and TensorFlow (chapters 06 and 09)")
    parser.add_argument("--with", choices=OPTIONAL, dest="again", help="install what an earlier --without left out")
    chosen = parser.parse_args()
    without = (left_out() | {chosen.without}) - {None, chosen.again}
    marks, last = expected_marks(without), stamped_marks()
    if last == marks:
        return
    print("Setting up the course in .venv (once; a minute, or longer if packages must be downloaded)", flush=True)
    if last:
        os.remove(STAMP)
    os.environ["PIP_USER"] = "0"  # or a pip.conf that installs into the home folder fails here
    if not os.access(os.path.expanduser("~"), os.W_OK):  # as of a container's user without an account: uv caches there
        os.environ["HOME"] = os.path.join(ROOT, ".course", "home")
        os.makedirs(os.environ["HOME"], exist_ok=True)
    # without a stamp .venv may be incomplete; after a move or a change of Python, its programs start the wrong one
    if last[:1] != marks[:1]:
        new_venv()
    sync(without)
    run(UV, "pip", "install", "--python", PYTHON, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    with open(STAMP, "w") as file:
        file.write("\n".join(marks))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("stopped. Run the same command again: it continues, and keeps what was downloaded.")
