"""The model that answers: found by its alias, fetched into a cache, checked, and exchanged while requests flow.

A thread in each worker asks the tracking server every few seconds. What it finds changes one reference, `served`, which
a request reads once. The server may be gone at any time: then the model in memory goes on, and after a restart the one
in the cache.
"""

import gc
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from filelock import Timeout as LockTimeout

from pystock.api import middleware as metrics
from pystock.api.schema import NAMES
from pystock.api.settings import Settings
from pystock.runs import first_line, model_id_of

log = logging.getLogger("pystock.api")
_LONGEST_WAIT = 300  # seconds between two attempts to fetch a version whose files cannot be had
_LONGEST_LOAD = 60  # seconds that one model may keep another from being loaded
_LOADING = threading.Lock()  # MLflow hands a model of code over in a global: two threads could swap theirs
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what comes of reading JSON that is another


class Served(NamedTuple):
    """A checked version. `about` is what GET /model says; `probability` takes (rows, 12) float64.

    `batches`: whether a row's probability is the same to the last bit whatever rows stand beside it. XGBoost's is; a
    matrix product's is not.
    """

    name: str
    version: int
    threshold: float
    origin: str
    probability: Callable[[np.ndarray], np.ndarray]
    batches: bool
    about: dict[str, Any]


class _Gone(Exception):
    """The tracking server does not answer, or refuses."""


class _Unavailable(Exception):
    """The files of a version cannot be had now."""


class _Broken(Exception):
    """A version that must not serve; it is not tried again until the alias moves."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# The cache ------------------------------------------------------------------------------------------------------------


class Cache:
    """The last two good versions of one model of one server, on the disk; workers share it.

    FOLDER/VERSION-MODEL_ID/ holds model/ and about.json, which has the sha256 of each file of the model;
    FOLDER/good.json names the good ones, newest first.
    """

    def __init__(self, root: Path, tracking_uri: str, model: str):
        key = hashlib.sha256(f"{tracking_uri}\n{model}".encode()).hexdigest()[:16]
        self.folder = root / key
        self._lock = FileLock(self.folder / ".lock", timeout=120)

    @contextmanager
    def held(self):
        """No other worker adds or removes an entry meanwhile. OSError where there is no lock: a read-only disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            yield

    def get(self, entry: str, fill: Callable[[Path], dict]) -> tuple[Path, dict]:
        """Folder and description of an entry; `fill` fetches it where it is not there, or damaged."""
        with self.held():
            place = self.folder / entry
            with suppress(*_DAMAGE):
                return place, _sound(place)
            for left in self.folder.glob(".new-*"):
                shutil.rmtree(left, ignore_errors=True)
            new = self.folder / f".new-{os.getpid()}"
            (new / "model").mkdir(parents=True)
            try:
                about = fill(new / "model")
                about["files"] = _digests(new / "model")
                (new / "about.json").write_text(json.dumps(about), encoding="utf-8")
                shutil.rmtree(place, ignore_errors=True)
                new.rename(place)
            except _Unavailable:
                (new / "room").write_bytes(bytes(1_000_000))  # OSError: it is the disk that is full
                raise
            finally:
                shutil.rmtree(new, ignore_errors=True)
            return place, about

    def mark_good(self, entry: str) -> None:
        """This one is the last good one; only the one before it is kept beside it."""
        with self._lock:
            good = [entry, *(each for each in self.good() if each != entry)][:2]
            new = self.folder / ".good.json"
            new.write_text(json.dumps(good), encoding="utf-8")
            new.replace(self.folder / "good.json")
            for place in self.folder.iterdir():
                if place.is_dir() and place.name not in good:
                    shutil.rmtree(place, ignore_errors=True)

    def good(self) -> list[str]:
        """The names of the good entries, newest first."""
        with suppress(*_DAMAGE):
            return [str(entry) for entry in json.loads((self.folder / "good.json").read_text(encoding="utf-8"))]
        return []

    def read(self, entry: str) -> tuple[Path, dict]:
        """Folder and description; _Broken for one that is damaged."""
        try:
            return self.folder / entry, _sound(self.folder / entry)
        except _DAMAGE as error:
            raise _Broken(f"the cached {entry} is damaged ({first_line(error)})") from None


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _sound(place: Path) -> dict:
    about = json.loads((place / "about.json").read_text(encoding="utf-8"))
    found = _digests(place / "model")
    if wrong := sorted(set(found.items()) ^ set(about["files"].items())):
        raise ValueError(f"{wrong[0][0]} is not as it was written")
    return about


# Loading and checking -------------------------------------------------------------------------------------------------


def load(folder: Path, about: dict, origin: str) -> Served:
    """The version in a folder, checked on its own input example; _Broken says what is wrong with it."""
    import mlflow

    try:
        if not _LOADING.acquire(timeout=_LONGEST_LOAD):
            raise _Unavailable(f"another model has been loading for {_LONGEST_LOAD} seconds")
        try:
            model = mlflow.pyfunc.load_model(str(folder / "model"))
        finally:
            _LOADING.release()
        signature = model.metadata.signature
        inputs = signature.inputs if signature else None
        found = [(each.name, each.type.name) for each in inputs.inputs] if inputs and inputs.has_input_names() else None
        if found != [(name, "double") for name in NAMES]:
            raise _Broken(f"its signature is not the {len(NAMES)} volatility features as doubles")
        thresholds = [each.default for each in (signature.params or []) if each.name == "threshold"]
        if not thresholds or not 0 <= thresholds[0] <= 1:
            raise _Broken("its signature has no threshold from 0 to 1")
        native = model.unwrap_python_model().probability
        example = model.metadata.load_input_example(str(folder / "model"))
        if example is None or not len(example):
            raise _Broken("it has no input example to check it on")
        said, probability = model.predict(example), native(np.ascontiguousarray(example[list(NAMES)], dtype="float64"))
        if not (np.isfinite(probability).all() and (probability >= 0).all() and (probability <= 1).all()):
            raise _Broken("on its input example it gives what is no probability")
        if said["probability"].to_numpy().tolist() != probability.tolist():
            raise _Broken("on its input example predict and probability differ")
        if said["decision"].tolist() != (probability > thresholds[0]).astype(int).tolist():
            raise _Broken("on its input example a decision is not whether the probability is above the threshold")
    except (_Broken, _Unavailable):
        raise
    except Exception as error:  # whatever the model's own code and its libraries raise
        if "files" in about and _digests(folder / "model") != about["files"]:
            raise _Unavailable("its folder in the cache was changed while it was read") from None
        raise _Broken(f"it cannot be loaded or asked here ({type(error).__name__}: {first_line(error)})") from None
    told = {name: value for name, value in about.items() if name != "files"}
    told |= {"loaded_at": _now(), "from": origin, "threshold": float(thresholds[0])}
    told["signature"] = {kind: json.loads(text) for kind, text in signature.to_dict().items() if text}
    batches = "xgboost" in model.metadata.flavors["python_function"].get("artifacts", {})
    return Served(about["name"], about["version"], float(thresholds[0]), origin, native, batches, told)


# The registry ---------------------------------------------------------------------------------------------------------


class Registry:
    """The questions to the tracking server."""

    def __init__(self, model: str):
        self.name, self.alias, self.number = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/([0-9]+))", model).groups()

    def find(self):
        """The version that the alias names, or None where there is no such; _Gone if nobody answers."""
        import mlflow
        from mlflow.exceptions import MlflowException

        client = mlflow.MlflowClient()
        try:
            if self.alias:
                found = client.get_model_version_by_alias(self.name, self.alias)
            else:
                found = client.get_model_version(self.name, self.number)
            int(found.version)  # what answers at that address may be no tracking server
            return found
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise _Gone(first_line(error)) from None
        except Exception as error:  # of a store in a file: whatever its database raises
            raise _Gone(f"{type(error).__name__}: {first_line(error)}") from None

    def fetch(self, found, folder: Path) -> dict:
        """The version's files into a folder, and its description; _Unavailable if they cannot be had."""
        import mlflow

        client = mlflow.MlflowClient()
        model_id = model_id_of(found)
        try:
            mlflow.artifacts.download_artifacts(f"models:/{self.name}/{found.version}", dst_path=str(folder))
            if not (folder / "MLmodel").exists():  # MLflow takes a folder that is not there for an empty one
                raise FileNotFoundError("there is no MLmodel")
            scores = client.get_run(found.run_id).data.metrics if found.run_id else {}
            if model_id:
                scores |= {each.key: each.value for each in client.get_logged_model(model_id).metrics or []}
        except Exception as error:
            raise _Unavailable(f"its files cannot be had ({type(error).__name__}: {first_line(error)})") from None
        return {
            "name": self.name,
            "version": int(found.version),
            "alias": self.alias,
            "model_id": model_id,
            "run_id": found.run_id or "",
            "metrics": scores,
            "tags": dict(found.tags),
        }


# The watcher ----------------------------------------------------------------------------------------------------------


class Watcher:
    """Keeps `served` at the version that `model` names; None as long as there is none. `looked` is set after one look.

    A champion goes on when nothing better is to be had. Where `keeps` is False, `served` is the version that the
    registry names now, or none.
    """

    what, keeps, log, counts = "champion", True, log, metrics.CHAMPION

    def __init__(self, settings: Settings, model: str):
        self.served: Served | None = None
        self._settings, self._model = settings, model
        self._registry = Registry(model)
        self._cache = Cache(settings.cache, os.environ.get("MLFLOW_TRACKING_URI", ""), model)
        self._reachable, self._since, self._error = None, _now(), "not asked yet"
        self._checked_at, self._named, self._refused, self._told = None, None, None, None
        self._not_before, self._attempts = {}, 0
        self._cache_tried, self._frozen = False, False
        self._ended, self.looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.what, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 2) -> None:
        """Returns when the thread has ended, or after `seconds`: it may wait for a server that does not answer."""
        self._ended.set()
        self._thread.join(seconds)

    def ready(self) -> dict:
        """What GET /ready says."""
        served, refused = self.served, self._refused
        return {
            "ready": served is not None,
            "model": {"name": served.name, "version": served.version} if served else None,
            "from": served.origin if served else None,
            "tracking_server": {"reachable": bool(self._reachable), "since": self._since, "error": self._error},
            "champion": {
                "checked_at": self._checked_at,
                "version": self._named,
                "refused": {"version": refused[0], "reason": refused[1]} if refused else None,
            },
        }

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
            except Exception:  # the thread has to live: without it no new champion would ever come
                self.log.exception(f"looking for the {self.what} failed")
            self.looked.set()
            self._ended.wait(self._settings.poll_seconds)

    def look(self) -> None:
        """One look at the alias, and what follows from it."""
        try:
            found = self._registry.find()
        except _Gone as gone:
            self._server(False, str(gone))
            return self._from_cache()
        self._server(True, None)
        self._checked_at, self._named = _now(), int(found.version) if found else None
        if found is None:
            self._refused = None
            what = "keeps what it has" if self.keeps else "has none"
            self._tell("none", f"{self._model} names no version", what)
            return self._from_cache()
        entry = f"{int(found.version)}-{model_id_of(found) or 'none'}"
        served = self.served
        if served and (served.version, served.about["model_id"]) == (int(found.version), model_id_of(found)):
            if served.origin == "cache":
                self._serve(served._replace(origin="registry", about=served.about | {"from": "registry"}), entry)
            self._refused = None
            return self._tell(entry)
        if self._refused and self._told == entry and time.monotonic() < self._not_before.get(entry, float("inf")):
            return None
        try:
            served = self._fetched(found, entry)
            self._refused = None  # before it answers: who meets the new version is not told of the one before
            self._serve(served, entry)
            self._tell(entry)
        except (_Broken, _Unavailable) as error:
            self._refuse(int(found.version), entry, error)

    def _fetched(self, found, entry: str) -> Served:
        try:
            with self._cache.held():  # until it is marked: another worker would take its folder away while it is read
                place, about = self._cache.get(entry, lambda folder: self._registry.fetch(found, folder))
                about |= {"alias": self._registry.alias, "tags": dict(found.tags)}
                served = load(place, about, "registry")
                with suppress(OSError):
                    self._cache.mark_good(entry)
                return served
        except LockTimeout:
            raise _Unavailable("another worker has been at the cache for 2 minutes") from None
        except OSError as error:
            self.log.warning(
                "cache not writable", extra={"cache": str(self._cache.folder), "reason": first_line(error)}
            )
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "model").mkdir()
                return load(Path(folder), self._registry.fetch(found, Path(folder) / "model"), "registry")

    def _refuse(self, version: int, entry: str, error: Exception) -> None:
        self._let_go()  # before the refusal is told
        if self._told != entry:
            self._attempts = 0
            self.counts.refused.inc()
        self._refused = (version, str(error))
        if isinstance(error, _Unavailable):  # it may come; a broken one is left alone until the alias moves
            wait = min(_LONGEST_WAIT, self._settings.poll_seconds * 2**self._attempts)
            self._not_before, self._attempts = {entry: time.monotonic() + wait}, self._attempts + 1
        else:
            self._not_before = {}
        if self._told != entry:
            self._told = entry
            self.log.error("version refused", extra={"refused_version": version, "reason": str(error)})
        self._from_cache()

    def _let_go(self) -> None:
        """Where nothing is kept, serve none."""
        if self.served and not self.keeps:
            self.served = None
            self.counts.version.set(0)
            self.log.info("let go")

    def _from_cache(self) -> None:
        self._let_go()
        if self.served or self._cache_tried or not self.keeps:
            return
        self._cache_tried = True
        for entry in self._cache.good():
            try:
                return self._serve(load(*self._cache.read(entry), "cache"), entry)
            except (_Broken, _Unavailable) as error:
                self.log.error("cache damaged", extra={"entry": entry, "reason": str(error)})
        self.log.error(
            "no model", extra={"reason": "no champion, and none in the cache", "cache": str(self._cache.folder)}
        )

    def _serve(self, served: Served, entry: str) -> None:
        before, self.served = self.served, served
        self.counts.version.set(served.version)
        self.counts.from_cache.set(served.origin == "cache")
        event = "switched" if before and before.version != served.version else "loaded"
        if event == "switched":
            self.counts.switches.inc()
        about = {"model_version": served.version, "before": before.version if before else None, "from": served.origin}
        self.log.info(event, extra=about)
        if not self._frozen:
            self._frozen = True
            gc.collect()
            gc.freeze()  # the libraries' objects stay for good: to look through them again takes 0.1 seconds each time

    def _server(self, reachable: bool, error: str | None) -> None:
        self._error = error
        if reachable != self._reachable:
            self._since = _now()
            if not reachable:
                self.log.error("tracking server lost", extra={"reason": error})
            elif self._reachable is False:
                self.log.info("tracking server back")
            self._reachable = reachable
            self.counts.server_up.set(reachable)

    def _tell(self, state: str, reason: str = "", what: str = "") -> None:
        """Log a state of the alias when it is new."""
        if self._told != state:
            self._told = state
            if reason:
                self.log.warning(f"no {self.what}", extra={"reason": f"{reason}: {what}"})
