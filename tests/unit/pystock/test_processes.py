"""The identity of processes, and the tree of errors."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pystock
from pystock import errors, processes


def test_a_living_process_is_not_over_and_a_dead_one_is():
    program = "from pystock.processes import this_process; print(this_process(), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        identity = child.stdout.readline().strip()
        assert not processes.is_over(identity) and not processes.is_over(processes.this_process())
    finally:
        child.communicate("\n")
    assert processes.is_over(identity)


def test_a_process_of_another_machine_or_with_a_reused_id():
    assert not processes.is_over("attic 1700000000|1|1700000000"), "nobody can know"
    machine, pid, created = processes.this_process().split("|")
    assert processes.is_over(f"{machine}|{pid}|{float(created) - 1000:.0f}")


def test_all_errors_have_one_base():
    names = {each.name for each in pkgutil.walk_packages(pystock.__path__, "pystock.")}
    found = []
    for name in names - {"pystock.decision_model"}:  # it is run by MLflow
        members = inspect.getmembers(importlib.import_module(name), inspect.isclass)
        found += [each for _, each in members if issubclass(each, Exception) and each.__module__ == name]
    public = [each for each in found if not each.__name__.startswith("_")]
    assert [each for each in public if not issubclass(each, errors.PystockError)] == []
    valued = {each.__name__ for each in public if issubclass(each, ValueError)}
    assert valued >= {"DataError", "PipelineError", "BatchError", "ModelError"}, "callers rely on it"
