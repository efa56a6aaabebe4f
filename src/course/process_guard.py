"""Run a command until standard input closes, then end it: `python -m course.process_guard SECONDS COMMAND …`.

SECONDS pass between SIGTERM and SIGKILL. Both go to the whole process group, because `mlflow models serve` leaves its
worker behind when only its parent ends.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time


def stop(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """End the child and its process group."""
    if os.name == "nt":
        import psutil

        try:
            family = psutil.Process(child.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        for kill in [child.kill, *(process.kill for process in family)]:
            with contextlib.suppress(OSError, psutil.Error):
                kill()
        return
    for sign, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 3)):
        deadline = time.monotonic() + patience
        try:
            os.killpg(child.pid, sign)
            while time.monotonic() < deadline:
                child.poll()  # reaps it: a zombie still counts as a member of its group
                os.killpg(child.pid, 0)
                time.sleep(0.05)
        except (ProcessLookupError, PermissionError):
            return  # the group is empty


def main() -> int:
    """Run the command; return its exit code, or 0 if it had to be ended."""
    parent = os.getppid()
    # Ctrl-C and a closed terminal reach the whole foreground group: leave it to the starter, and wait for the pipe
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=os.name != "nt")

    def wait_for_the_pipe() -> None:
        while os.read(0, 1024):  # not sys.stdin, whose lock a thread may not hold when Python ends
            pass
        ended.set()

    def wait_for_the_child() -> None:
        child.wait()
        ended.set()

    for wait in (wait_for_the_pipe, wait_for_the_child):
        threading.Thread(target=wait, daemon=True).start()
    # a fork of a killed starter keeps the pipe open: also watch the parent
    while not ended.wait(timeout=1) and os.getppid() == parent:
        pass
    code = child.poll()
    stop(child, float(sys.argv[1]))
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
