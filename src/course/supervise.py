"""Run supervisor with shorter waits: `python -m course.supervise …` takes the options of supervisord.

Supervisor notices signals and ended programs once a second. A start would wait for that once and a stop three to four
times, and chapter 05 has two of each.
"""

from typing import Any

from supervisor import poller, supervisord

WAIT = 0.1  # seconds


class ImpatientPoller(poller.Poller):
    """Supervisor's poller for this system, which waits no longer than WAIT."""

    def poll(self, timeout: float) -> Any:
        """Return the file descriptors that can be read, and those that can be written."""
        return super().poll(min(timeout, WAIT))


if __name__ == "__main__":
    poller.Poller = ImpatientPoller
    supervisord.main()
