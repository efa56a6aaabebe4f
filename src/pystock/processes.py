"""Processes: which is this one, is that one still alive, and one at a time."""

import getpass
import hashlib
import platform
import tempfile
from pathlib import Path

import filelock
import psutil


def this_process() -> str:
    """Return this process's machine, process id and start time, as text that `is_over` can read later."""
    process = psutil.Process()
    return f"{machine()}|{process.pid}|{process.create_time():.0f}"


def machine() -> str:
    """Return the machine's name and boot time: two machines with one name rarely boot in the same second."""
    return f"{platform.node()} {psutil.boot_time():.0f}"


def is_over(process: str) -> bool:
    """Return whether the process that `this_process` described has ended; False if it ran on another machine."""
    its_machine, pid, created = process.split("|")
    if its_machine != machine():
        return False
    try:
        running = psutil.Process(int(pid))
        return running.status() == psutil.STATUS_ZOMBIE or abs(running.create_time() - float(created)) > 2
    except psutil.NoSuchProcess:
        return True


def alone(work: str, timeout: float = 600) -> filelock.BaseFileLock:
    """Return the lock for one piece of work at a time, by this account on this machine.

    It waits up to `timeout` seconds, then raises filelock.Timeout.
    """
    name = hashlib.sha256(f"{getpass.getuser()} {work}".encode()).hexdigest()[:16]
    return filelock.FileLock(Path(tempfile.gettempdir(), f"pystock-{name}.lock"), timeout=timeout)
