"""Processes of tests that die at a chosen moment."""

import os
import signal


def die_before(number, calls, how="SIGKILL"):
    """Send this process a signal before call `number`, from 0, of the (owner, name) pairs; return a count of calls."""
    count = -1

    def counted(original):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), getattr(signal, how))
            return original(*arguments, **options)

        return call

    for owner, name in calls:
        setattr(owner, name, counted(getattr(owner, name)))
    return lambda: count + 1
