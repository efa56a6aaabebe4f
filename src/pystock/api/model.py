"""The served model: looked up by its alias, fetched into a cache, checked, and replaced while requests are served.

A thread in each worker polls the tracking server every few seconds. A new version replaces one reference, `served`,
which a request reads once. If the server is gone, the model in memory stays; after a restart, the cached one is used.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock

from pystock.api import metrics
from pystock.api.schema import FEATURE_NAMES
from pystock.api.settings import Settings
from pystock.errors import PystockError, first_line
from pystock.files import write_atomically
from pystock.model_uri import ModelNotFound, model_id_of, parse, resolve, uri_of

if TYPE_CHECKING:  # at run time MLflow is loaded with the first lookup
    from mlflow.entities.model_registry import ModelVersion

    from pystock.models import LoadedModel

log = logging.getLogger("pystock.api")
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # raised by JSON without our fields


class ServedModel(NamedTuple):
    """A checked version. `description` is what GET /model returns; `probability` takes an array (rows, 12)."""

    name: str
    version: int
    threshold: float
    origin: str
    probability: Callable[[np.ndarray], np.ndarray]
    description: dict[str, Any]


class Unreachable(PystockError):
    """Raised if the tracking server does not respond, or responds with nonsense."""


class Unavailable(PystockError):
    """Raised if the files of a version cannot be read now."""


class Unfit(PystockError):
    """Raised for a version that must not be served. It is not retried until the alias moves."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Cache:
    """The last two good versions of one model of one server, on disk. Workers share it.

    FOLDER/VERSION-MODEL_ID/ contains model/ and about.json, which has the sha256 of each file of the model;
    FOLDER/good.json names the good ones, newest first.
    """

    def __init__(self, root: Path, tracking_uri: str, model: str):
        key = hashlib.sha256(f"{tracking_uri}\n{model}".encode()).hexdigest()[:16]
        self.folder = root / key
        self._lock = FileLock(self.folder / ".lock", timeout=120)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other workers from adding or removing entries. OSError if no lock can be made: a read-only disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            yield

    def get(self, entry: str, fetch: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Return the description of an entry, which `fetch` fills if it is missing or damaged. Call it locked."""
        folder, new = self.folder / entry, self.folder / ".new"
        with suppress(*_DAMAGE):
            return _read(folder)
        shutil.rmtree(new, ignore_errors=True)
        (new / "model").mkdir(parents=True)
        try:
            about = fetch(new / "model")
            about["files"] = _digests(new / "model")
            (new / "about.json").write_text(json.dumps(about), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return about

    def mark_good(self, entry: str) -> None:
        """Record the newest good entry; only it and the one before it are kept. Call it locked."""
        good = [entry, *(each for each in self.good() if each != entry)][:2]
        write_atomically(self.folder / "good.json", json.dumps(good).encode())
        for folder in self.folder.iterdir():
            if folder.is_dir() and folder.name not in good:
                shutil.rmtree(folder, ignore_errors=True)

    def good(self) -> list[str]:
        """Return the names of the good entries, newest first."""
        with suppress(*_DAMAGE):
            return [str(entry) for entry in json.loads((self.folder / "good.json").read_text(encoding="utf-8"))]
        return []

    def load(self, entry: str) -> ServedModel:
        """Load a cached version; Unfit if it is damaged."""
        try:
            about = _read(self.folder / entry)
        except _DAMAGE as error:
            raise Unfit(f"the cached {entry} is damaged ({first_line(error)})") from None
        return load(self.folder / entry, about, "cache")


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _read(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    if changed := sorted(set(_digests(folder / "model").items()) ^ set(about["files"].items())):
        raise ValueError(f"{changed[0][0]} has been changed")
    return about


def load(folder: Path, about: dict[str, Any], origin: str) -> ServedModel:
    """Load the version in `folder`/model and check it on its own input example; Unfit if it must not be served."""
    from pystock.models import ModelError, load_decision_model

    try:
        loaded = load_decision_model(str(folder / "model"), "it")
        if loaded.features != list(FEATURE_NAMES):
            raise Unfit(f"its signature doesn't have the {len(FEATURE_NAMES)} volatility features as double columns")
        if (threshold := loaded.threshold) is None:
            raise Unfit("its signature has no threshold from 0 to 1")
        if loaded.probability is None:
            raise Unfit("it has no method probability: log it with log_decision_model")
        _check_example(loaded, loaded.probability, threshold, folder / "model")
    except ModelError as error:
        raise Unfit(str(error)) from None
    except Unfit:
        raise
    except Exception as error:  # the model's code and its libraries may raise anything
        raise Unfit(f"it cannot be loaded or called here ({type(error).__name__}: {first_line(error)})") from None
    description = {name: value for name, value in about.items() if name != "files"}
    description |= {"loaded_at": _now(), "from": origin, "threshold": threshold}
    signature = loaded.model.metadata.signature.to_dict()
    description["signature"] = {kind: json.loads(text) for kind, text in signature.items() if text}
    return ServedModel(about["name"], about["version"], threshold, origin, loaded.probability, description)


def _check_example(
    loaded: "LoadedModel", native: Callable[[np.ndarray], np.ndarray], threshold: float, folder: Path
) -> None:
    example = pd.DataFrame(loaded.model.metadata.load_input_example(str(folder)))  # empty for None
    if example.empty:
        raise Unfit("it has no input example, so it cannot be checked: log the model with one")
    predictions = pd.DataFrame(loaded.model.predict(example))
    probability = native(np.ascontiguousarray(example[loaded.features], dtype="float64"))
    if not ((probability >= 0) & (probability <= 1)).all():  # False for NaN, too
        raise Unfit("on its input example it returns a value that is not a probability")
    if predictions["probability"].tolist() != probability.tolist():
        raise Unfit("on its input example predict and probability differ")
    if predictions["decision"].tolist() != (probability > threshold).astype(int).tolist():
        raise Unfit("on its input example a decision does not follow from probability and threshold")


def find(uri: str) -> "ModelVersion | None":
    """Return the version that a URI names, or None; Unreachable if the server does not respond."""
    try:
        version = resolve(uri)
        int(version.version)  # another kind of server may respond at that address
        return version
    except ModelNotFound:
        return None
    except Exception as error:  # MLflow's, and a store in a file raises whatever its database does
        raise Unreachable(f"{type(error).__name__}: {first_line(error)}") from None


def fetch(version: "ModelVersion", alias: str | None, folder: Path) -> dict[str, Any]:
    """Download a version's files and return its description; Unavailable if that fails."""
    import mlflow

    client, model_id = mlflow.MlflowClient(), model_id_of(version)
    try:
        mlflow.artifacts.download_artifacts(uri_of(version), dst_path=str(folder))
        if not (folder / "MLmodel").exists():  # MLflow downloads a missing folder as an empty one
            raise FileNotFoundError("there is no MLmodel")
        scores = client.get_run(version.run_id).data.metrics if version.run_id else {}
        if model_id:
            scores |= {each.key: each.value for each in client.get_logged_model(model_id).metrics or []}
    except Exception as error:
        raise Unavailable(f"its files cannot be downloaded ({type(error).__name__}: {first_line(error)})") from None
    about = {"name": version.name, "version": int(version.version), "alias": alias, "model_id": model_id}
    return about | {"run_id": version.run_id or "", "metrics": scores, "tags": dict(version.tags)}


class Watcher:
    """A thread that keeps `served` at the version that `settings.model` names. `looked` is set after the first lookup.

    `served` is None until there is a model. A served model stays until a better one has passed the check.
    """

    def __init__(self, settings: Settings):
        self.served: ServedModel | None = None
        self.looked = threading.Event()
        self._uri, self._alias, self._poll_seconds = settings.model, parse(settings.model).alias, settings.poll_seconds
        self._cache = Cache(settings.cache, os.environ.get("MLFLOW_TRACKING_URI", ""), settings.model)
        self._reachable: bool | None = None
        self._server = {"reachable": False, "since": _now(), "error": "not contacted yet"}
        self._champion: dict[str, Any] = {"checked_at": None, "version": None}
        self._refused: dict[str, Any] | None = None
        self._refused_entry, self._unfit = "", False
        self._cache_tried = self._missing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. It may wait for a server that does not respond; otherwise 2 seconds are enough."""
        self._ended.set()
        self._thread.join(2)

    def ready(self) -> dict[str, Any]:
        """Return the response to GET /ready."""
        served = self.served
        return {
            "ready": served is not None,
            "model": {"name": served.name, "version": served.version} if served else None,
            "from": served.origin if served else None,
            "tracking_server": self._server,
            "champion": self._champion | {"refused": self._refused},
        }

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.look()
            except Exception:  # without this thread no new champion would ever be served
                log.exception("the lookup of the champion failed")
            self.looked.set()
            self._ended.wait(self._poll_seconds)

    def look(self) -> None:
        """Look up the alias once, and serve what it names."""
        try:
            version = find(self._uri)
        except Unreachable as error:
            self._set_server(False, str(error))
        else:
            self._set_server(True, None)
            self._champion = {"checked_at": _now(), "version": int(version.version) if version else None}
            self._follow(version)
        self._serve_cached()

    def _follow(self, version: "ModelVersion | None") -> None:
        if version is None:
            if not self._missing:
                log.warning("no champion", extra={"reason": f"{self._uri} names no version: the model does not change"})
            self._missing, self._refused, self._refused_entry = True, None, ""
            return
        self._missing = False
        number, model_id = int(version.version), model_id_of(version)
        entry, served = f"{number}-{model_id or 'none'}", self.served
        if served and (served.version, served.description["model_id"]) == (number, model_id):
            self._refused, self._refused_entry = None, ""
            if served.origin == "cache":
                description = served.description | {"from": "registry"}
                self._serve(served._replace(origin="registry", description=description))
        elif entry != self._refused_entry or not self._unfit:  # files that were not available may be there now
            try:
                checked = self._fetch(version, entry)
            except (Unfit, Unavailable) as error:
                self._refuse(number, entry, error)
                return
            self._refused, self._refused_entry = None, ""  # first: callers of the new version see no refusal
            self._serve(checked)

    def _fetch(self, version: "ModelVersion", entry: str) -> ServedModel:
        try:
            with self._cache.locked():  # until it is marked as good; another worker would remove it while it is read
                about = self._cache.get(entry, lambda folder: fetch(version, self._alias, folder))
                about |= {"alias": self._alias, "tags": dict(version.tags)}
                checked = load(self._cache.folder / entry, about, "registry")
                with suppress(OSError):
                    self._cache.mark_good(entry)
                return checked
        except (OSError, Unavailable) as error:  # MLflow reports a full disk as files that it cannot download
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "model").mkdir()
                about = fetch(version, self._alias, Path(folder) / "model")
                log.warning("cache not writable", extra={"cache": str(self._cache.folder), "reason": first_line(error)})
                return load(Path(folder), about, "registry")

    def _refuse(self, version: int, entry: str, error: Unfit | Unavailable) -> None:
        self._refused = {"version": version, "reason": str(error)}
        self._unfit = isinstance(error, Unfit)
        if entry != self._refused_entry:
            self._refused_entry = entry
            metrics.REFUSED_VERSIONS.inc()
            log.error("version refused", extra={"refused_version": version, "reason": str(error)})

    def _serve_cached(self) -> None:
        """Serve the last good version of the cache if nothing is served; try it once."""
        if self.served or self._cache_tried:
            return
        self._cache_tried = True
        for entry in self._cache.good():
            try:
                self._serve(self._cache.load(entry))
                return
            except Unfit as error:
                log.error("cache damaged", extra={"entry": entry, "reason": str(error)})
        log.error("no model", extra={"reason": "no champion and no cached model", "cache": str(self._cache.folder)})

    def _serve(self, served: ServedModel) -> None:
        before, self.served = self.served, served
        metrics.VERSION.set(served.version)
        metrics.FROM_CACHE.set(served.origin == "cache")
        event = "switched" if before and before.version != served.version else "loaded"
        if event == "switched":
            metrics.SWITCHES.inc()
        fields = {"model_version": served.version, "before": before.version if before else None, "from": served.origin}
        log.info(event, extra=fields)

    def _set_server(self, reachable: bool, error: str | None) -> None:
        since = self._server["since"] if reachable == self._reachable else _now()
        self._server = {"reachable": reachable, "since": since, "error": error}
        if reachable != self._reachable:
            if not reachable:
                log.error("tracking server lost", extra={"reason": error})
            elif self._reachable is False:
                log.info("tracking server back")
            self._reachable = reachable
            metrics.SERVER_UP.set(reachable)
