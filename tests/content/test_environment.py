"""pyproject.toml, requirements.lock, environment.yml and install.py agree."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from fake_course import CHECKOUT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from course import doctor

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(line) for line in [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]]

# one a system, processor and Python that the course promises to run on
MACHINES = [
    {
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system],
        "os_name": "nt" if system == "win32" else "posix",
        "platform_machine": processor,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.4",
    }
    for system, processor in [
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("darwin", "arm64"),
        ("darwin", "x86_64"),
        ("win32", "AMD64"),
    ]
    for minor in (11, 12, 13)
]


def locked() -> dict[str, Requirement]:
    """The lock's lines by name; a name that stands there twice fails."""
    found = {}
    for line in LOCK.splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.rstrip(" \\"))
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} stands in the lock twice"
            found[name] = requirement
    return found


def missing(declared: list[Requirement], lock: dict[str, Requirement], machine: dict) -> list[str]:
    """Each declared package that the machine needs and the lock does not give it, within its range."""
    problems = []
    for requirement in declared:
        if requirement.marker and not requirement.marker.evaluate(machine):
            continue
        pin = lock.get(canonicalize_name(requirement.name))
        if pin is None:
            problems.append(f"{requirement.name} is not in the lock")
        elif pin.marker and not pin.marker.evaluate(machine):
            problems.append(f"the lock leaves {pin} out")
        elif not requirement.specifier.contains(next(iter(pin.specifier)).version):
            problems.append(f"the lock has {pin}, pyproject.toml wants {requirement.specifier}")
    return problems


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda m: f"{m['sys_platform']}-{m['platform_machine']}-{m['python_version']}"
)
def test_the_lock_holds_what_pyproject_asks_for(machine):
    assert missing(DECLARED, locked(), machine) == []


def test_what_is_missing_is_seen():
    lock = {"a": Requirement("a==1.0"), "b": Requirement("b==1.0 ; sys_platform == 'win32'")}
    declared = [Requirement(line) for line in ("a>=2", "b", "c", "d ; sys_platform == 'win32'")]
    assert len(missing(declared, lock, MACHINES[0])) == 3


def test_every_locked_package_is_one_version_with_hashes_and_without_addresses():
    for name, pin in locked().items():
        assert [one.operator for one in pin.specifier] == ["=="], pin
        assert pin.url is None
        entry = re.search(rf"^{re.escape(pin.name)}==(?:.*\\\n)*.*", LOCK, re.MULTILINE)[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), f"{name} has no hash"
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links| @ ", LOCK)


def test_the_lock_can_set_itself_up():
    """uv installs the lock, and the editable install of this project builds without the network."""
    assert {"uv", "pip", "hatchling", "editables"} <= set(locked())


def test_each_dependency_says_who_needs_it():
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    lines = text[text.index("\ndependencies = [") : text.index("[project.scripts]")].splitlines()
    for before, line in zip(lines, lines[1:]):
        if re.match(r'\s+"', line):
            behind = re.search(r"#\s*\S", line.rpartition('"')[2])
            above = re.match(r"\s+#", before)
            alternative = "; " in before and "; " in line  # of those for different systems, the first speaks for all
            assert behind or above or alternative, f"nobody needs it: {line.strip()}"
    names = [canonicalize_name(requirement.name) for requirement in DECLARED]
    assert len(names) == len(set(names))
    assert len([line for line in lines if re.match(r'\s+"', line)]) == len(names)


def test_environment_yml():
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    python, pip, packages = environment["dependencies"]
    assert pip == "pip" and packages == {"pip": ["-r requirements.lock"]}
    name, _, versions = python.partition(" ")
    assert name == "python" and SpecifierSet(versions) == SpecifierSet(PROJECT["requires-python"])


def test_install_supports_the_same_pythons():
    code = "import install; print(install.OLDEST, install.NEWEST)"
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout == "(3, 11) (3, 13)\n"
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" in supported for minor in (10, 11, 12, 13, 14)] == [False, True, True, True, False]


def test_this_environment_is_the_locked_one():
    assert doctor.packages() is None
