"""Processes of tests that die at a chosen moment."""

import os
import signal


def die_before(number, calls, how="SIGKILL"):
    """Have this process get that signal before a call of (owner, name) pairs, by number from 0; return the counter."""
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
