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

PYPROJECT = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
DECLARED = [*map(Requirement, PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), []))]
LOCK = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line.rstrip(" \\")) for line in LOCK if line[:1].isalnum()]
LOCKED = {canonicalize_name(pin.name): pin for pin in PINS}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", ["Linux x86_64", "Linux aarch64", "Darwin arm64", "Darwin x86_64", "Windows AMD64"])
def test_lock_has_what_each_machine_needs(machine, python):
    system, processor = machine.split()
    machine = {"sys_platform": "win32" if system == "Windows" else system.lower(), "platform_system": system}
    machine |= {"platform_machine": processor, "os_name": "nt" if system == "Windows" else "posix"}
    machine |= {"python_version": python, "python_full_version": f"{python}.4"}
    needed = [each for each in DECLARED if not each.marker or each.marker.evaluate(machine)]
    assert len(needed) > 40
    for requirement in needed:
        pin = LOCKED[canonicalize_name(requirement.name)]
        assert not pin.marker or pin.marker.evaluate(machine), f"the lock leaves {pin} out"
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), f"{pin} is not {requirement}"


def test_each_locked_package_is_one_version_with_hashes_and_without_addresses():
    assert len(LOCKED) == len(PINS), "a package is in the lock twice"
    assert {"uv", "pip", "hatchling", "editables"} <= set(LOCKED), "the lock cannot set itself up without the network"
    assert [str(pin) for pin in PINS if [each.operator for each in pin.specifier] != ["=="] or pin.url] == []
    for line, following in zip(LOCK, LOCK[1:]):
        assert not line[:1].isalnum() or re.match(r" +--hash=sha256:[0-9a-f]{64}\b", following), f"{line} has no hash"
    assert [line for line in LOCK if re.search(r"https?://|--(extra-)?index-url|--find-links| @ ", line)] == []


def test_each_dependency_has_a_comment_on_who_needs_it():
    lines = PYPROJECT[PYPROJECT.index("\ndependencies = [") : PYPROJECT.index("[project.scripts]")].splitlines()
    dependencies = [(above, line) for above, line in zip(lines, lines[1:]) if line.startswith('  "')]
    assert len(dependencies) == len(DECLARED) == len({canonicalize_name(each.name) for each in DECLARED})
    for above, line in dependencies:
        alternative = "; " in above and "; " in line  # of those for different systems, the first has the comment
        assert "# " in line.rpartition('"')[2] or above.startswith("  #") or alternative, f"who needs it? {line}"


def test_environment_yml_and_install_support_the_same_pythons():
    environment = yaml.safe_load((CHECKOUT / "environment.yml").read_text(encoding="utf-8"))
    python, *others = environment["dependencies"]
    assert (environment["name"], others) == (PROJECT["name"], ["pip", {"pip": ["-r requirements.lock"]}])
    supported = SpecifierSet(PROJECT["requires-python"])
    assert SpecifierSet(python.removeprefix("python ")) == supported
    code = "import install; print(install.OLDEST, install.NEWEST)"
    printed = subprocess.check_output([sys.executable, "-B", "-c", code], cwd=CHECKOUT, text=True)
    assert printed == "(3, 11) (3, 13)\n"
    assert [f"3.{minor}" in supported for minor in (10, 11, 12, 13, 14)] == [False, True, True, True, False]


def test_this_environment_is_the_locked_one():
    assert doctor.packages() is None
