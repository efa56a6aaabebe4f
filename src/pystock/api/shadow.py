"""A share of the requests is asked of a challenger too, once the champion's answer is sent. Nobody waits for it."""

import logging
import queue
import random
import threading
from typing import NamedTuple

import numpy as np
from prometheus_client import Counter, Gauge

from pystock.api.middleware import OfModel
from pystock.api.model import Served, Watcher
from pystock.api.settings import Settings
from pystock.runs import first_line

WAITING = 64  # requests; at 10,000 rows each they hold 70 MB
WRITTEN = 20  # rows in a line of the log

REQUESTS = Counter("pystock_api_mirror_requests", "Requests that the challenger answered too.")
ROWS = Counter("pystock_api_mirror_rows", "Rows of these requests.")
AGREED = Counter("pystock_api_mirror_agreed_rows", "Rows for which both models decide the same.")
DIFFERENCE = Counter("pystock_api_mirror_absolute_difference", "Sum of the rows' absolute differences in probability.")
DROPPED = Counter("pystock_api_mirror_dropped", "Requests that were to be mirrored, for which there was no place.")
FAILED = Counter("pystock_api_mirror_failed", "Requests that the challenger failed to answer.")
_VERSION = Gauge("pystock_api_mirror_model_version", "The challenger; 0: none.", multiprocess_mode="livemin")
_SWITCHES = Counter("pystock_api_mirror_switches", "Changes of the challenger, in each worker.")
_REFUSED = Counter("pystock_api_mirror_refused_versions", "Challengers that failed the check, in each worker.")


class _Log(logging.LoggerAdapter):
    def process(self, message, options):
        return f"mirror: {message}", options


log = _Log(logging.getLogger("pystock.api"))


class _Challenger(Watcher):
    what, keeps, log, counts = "challenger", False, log, OfModel(_VERSION, _SWITCHES, _REFUSED)


class Answered(NamedTuple):
    """A request as the champion has answered it. `threshold` is the request's, None where it has none."""

    request_id: str
    champion: Served
    threshold: float | None
    numbers: np.ndarray
    probability: np.ndarray


class Mirror:
    """Asks the challenger on a thread of its own, behind a queue that drops what it has no place for."""

    def __init__(self, settings: Settings):
        self._share, self._watcher = settings.mirror_share, _Challenger(settings, settings.mirror)
        self._chance = random.Random().random  # of its own: a model that seeds Python's would choose the requests
        self._queue: queue.Queue[tuple[Served, Answered] | None] = queue.Queue(WAITING)
        self._told = set()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        self._watcher.start()
        self._thread.start()

    def stop(self) -> None:
        """Drop what waits. A prediction that is under way, or a look at the registry, is waited for a second."""
        dropped = 0
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
            dropped += 1
        DROPPED.inc(dropped)
        self._queue.put(None)
        if dropped:
            log.info("dropped at the end", extra={"requests": dropped})
        self._watcher.stop(1)
        self._thread.join(1)

    def ready(self) -> dict:
        """What GET /ready says of it."""
        said = self._watcher.ready()
        return {"share": self._share, "model": said["model"], **said["champion"]}

    def offer(self, *answered) -> None:
        """Mirror this request (the fields of Answered), if chance chooses it; returns at once."""
        challenger = self._watcher.served
        if challenger is None or self._chance() >= self._share:
            return
        try:
            self._queue.put_nowait((challenger, Answered(*answered)))
        except queue.Full:
            DROPPED.inc()

    def _run(self) -> None:
        while task := self._queue.get():
            try:
                _compare(*task)
            except BaseException as error:  # whatever the challenger's code raises, SystemExit among it
                FAILED.inc()
                kind = task[0].version, type(error)
                if kind not in self._told:
                    self._told.add(kind)
                    reason = f"{type(error).__name__}: {first_line(error)}"
                    log.error("failed", extra={"challenger": task[0].version, "reason": reason})


def _compare(challenger: Served, answered: Answered) -> None:
    probability = np.asarray(challenger.probability(answered.numbers), dtype="float64")
    if probability.shape != answered.probability.shape or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("what it gives are no probabilities, one a row")  # a NaN is none either
    first, champion = _side(answered.champion, answered.threshold, answered.probability)
    second, other = _side(challenger, answered.threshold, probability)
    difference, agreed = np.abs(probability - answered.probability), int((first == second).sum())
    REQUESTS.inc()
    ROWS.inc(len(difference))
    AGREED.inc(agreed)
    DIFFERENCE.inc(float(difference.sum()))
    about = {"request_id": answered.request_id, "rows": len(difference), "agreed": agreed}
    about |= {"largest_difference": float(difference.max()), "champion": champion, "challenger": other}
    log.logger.info("mirrored", extra=about)


def _side(model: Served, asked: float | None, probability: np.ndarray) -> tuple[np.ndarray, dict]:
    """The decisions, and what the log says of a model's answer."""
    threshold = model.threshold if asked is None else asked
    decisions = (probability > threshold).astype(int)
    return decisions, {
        "name": model.name,
        "version": model.version,
        "threshold": threshold,
        "probabilities": probability[:WRITTEN].tolist(),
        "decisions": decisions[:WRITTEN].tolist(),
    }
