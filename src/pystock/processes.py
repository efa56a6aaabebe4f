"""The identity of a process, which outlives it: whether the process that wrote a lock or a run is still alive."""

import platform

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
