"""The exercises of chapter 05."""

import re
import shlex
from fnmatch import fnmatch
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from course.checks import Exercise, Wrong, need_function, run_in
from pystock.data import load
from pystock.evaluation import time_split
from pystock.features import dataset


def reviewed(answer, market):
    if not isinstance(answer, dict) or not {"info", "data"} <= answer.keys():
        raise Wrong("The answer is the run as the server returns it: answer = get_run(by_http).")
    if answer["info"].get("run_name") != "by-http":
        raise Wrong(f"That is the run {answer['info'].get('run_name')}: read by-http with get_run(by_http).")
    tags = {tag["key"]: tag["value"] for tag in answer["data"].get("tags", [])}
    if "reviewed" not in tags:
        raise Wrong(f"That run has the tags {sorted(tags)}: add the tag reviewed, save it, and call get_run again.")
    if tags["reviewed"] != "yes":
        raise Wrong(f"The tag reviewed has the value {tags['reviewed']!r}: it should be yes.")


class _Model:
    """A model whose predictions for a table are those of a function."""

    def __init__(self, function):
        self.function = function

    def predict(self, X):
        return pd.Series(self.function(X), index=X.index)


MODELS = {  # name: predictions, and whether a row's prediction depends on that row alone
    "a coin that hashes each row": (lambda X: (pd.util.hash_pandas_object(X, index=False) / 2**64 < 0.5) * 1, True),
    "a model that always says up": (lambda X: 1, True),
    "the seeded coin": (lambda X: (np.random.default_rng(0).random(len(X)) < 0.5) * 1, False),
    "a model that compares a row with the mean": (lambda X: (X["day_14"] > X["day_14"].mean()) * 1, False),
    "a model that is wrong only in the last row": (lambda X: np.arange(len(X)) // 9, False),
}


def independence(answer, market):
    need_function(answer, "row_independent")
    flags = np.random.default_rng(1).integers(0, 2, size=(10, 14)).astype(float)
    X = pd.DataFrame(flags, columns=[f"day_{day:02}" for day in range(1, 15)])
    for name, (function, independent) in MODELS.items():
        result = answer(_Model(function), X)
        if not isinstance(result, bool | np.bool_):
            raise Wrong(f"Your function returns {result!r}: return True or False.")
        if bool(result) != independent:
            which = "depends on that row alone" if independent else "depends on the other rows too"
            raise Wrong(f"For {name}, your function returns {result}, but the prediction for a row {which}.")


def from_code(answer, market):
    import mlflow

    run = run_in("workbench", answer)
    if run.info.run_name != "always-up":
        raise Wrong(f"That run is named {run.info.run_name}: pass run_name='always-up' to start_run.")
    if not (run.outputs and run.outputs.model_outputs):
        raise Wrong("That run has no model: call mlflow.pyfunc.log_model inside it.")
    uri = f"models:/{run.outputs.model_outputs[0].model_id}"
    info = mlflow.models.get_model_info(uri)
    if "model_code_path" not in info.flavors["python_function"]:
        raise Wrong("That model is a pickle: pass log_model the path of a file, as text, instead of the object.")
    if info.signature is None:
        raise Wrong("That model has no signature: pass **description as before.")
    X, y = dataset(load(market, end="2014-12-31"), "direction", "flags")
    _, X_test, _, _ = time_split(X, y)
    said = pd.Series(mlflow.pyfunc.load_model(uri).predict(X_test))
    if len(said) != len(X_test) or not (said == 1).all():
        raise Wrong("That model does not predict 1 for every row.")


def resumed(answer, market):
    import mlflow

    need_function(answer, "resume")
    if mlflow.active_run():
        raise Wrong("A run is still active in this notebook: end it with mlflow.end_run().")
    mlflow.set_experiment("workbench")  # start_run refuses the run of another experiment
    table = pd.DataFrame({"days_up": [3.0, 5, 8, 9], "accuracy": [0.5, 0.4, 0.5, 0.6]}, index=[2010, 2011, 2012, 2013])
    with mlflow.start_run(run_name="check-of-exercise-05.4") as run:
        for year in (2012, 2010):
            mlflow.log_metrics(table.loc[year].to_dict(), step=year)
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    try:
        answer(run_id, table)
        points = client.get_metric_history(run_id, "accuracy")
        years = sorted(point.step for point in points)
        named = f"Of a run with 2010 and 2012, your function made one with {years}"
        if len(years) > len(set(years)):
            raise Wrong(f"{named}: it logs years again that the server already had.")
        if years != list(table.index):
            raise Wrong(f"{named}, but the table has {list(table.index)}: log each row whose year is missing.")
        if {point.step: point.value for point in points} != table["accuracy"].to_dict():
            raise Wrong("The years are right, but their values are not those of the table.")
        if sorted(point.step for point in client.get_metric_history(run_id, "days_up")) != years:
            raise Wrong("The years of accuracy are right, but those of days_up are not: log the whole row.")
        if mlflow.active_run():
            raise Wrong("The run is still active: end it, for example with a with block.")
    finally:
        mlflow.end_run()
        client.delete_run(run_id)


def _options(command):
    words = shlex.split(command)
    options = {}
    for place, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            options[name] = value if equals else " ".join(words[place + 1 : place + 2])
    return options


def containers(answer, market):
    if not isinstance(answer, dict) or set(answer) != {"command", "tracking_uri"}:
        raise Wrong("The answer is a dictionary with the keys command and tracking_uri.")
    if not all(isinstance(text, str) for text in answer.values()):
        raise Wrong("Both values of the dictionary are texts.")
    _address(answer["tracking_uri"].strip())
    _command(answer["command"])


def _address(text):
    uri = urlsplit(text)
    if uri.hostname in ("localhost", "127.0.0.1", "0.0.0.0"):
        raise Wrong("tracking_uri: in the container jupyter, this is the container itself, where no server listens.")
    if uri.hostname != "mlflow" or uri.scheme != "http":
        raise Wrong("tracking_uri: containers reach each other by their names. It begins with http://mlflow.")
    if not re.search(r":5000/?$", text):
        raise Wrong("tracking_uri: the name is right, but use the port on which the server listens in its container.")


def _command(text):
    try:
        options = _options(text)
    except ValueError as error:
        raise Wrong(f"command: a shell can't read it ({error}).") from None
    if "--default-artifact-root" in options:
        raise Wrong("command: --default-artifact-root tells the clients to write to their own disks. Replace it.")
    if options.get("--artifacts-destination") != "/artifacts":
        raise Wrong("command: the server itself should store the files: --artifacts-destination /artifacts.")
    if options.get("--host") != "0.0.0.0" or options.get("--port") != "5000":
        raise Wrong("command: keep --host 0.0.0.0 and --port 5000, or no other container can reach the server.")
    if "@postgres/" not in options.get("--backend-store-uri", ""):
        raise Wrong("command: the address of the database was right: the container postgres.")
    allowed = [name.strip() for name in options.get("--allowed-hosts", "").split(",") if name.strip()]
    if not allowed:
        raise Wrong("command: a client of mlflow:5000 still gets 403. The third row of the table has the fix.")
    if "*" in allowed:
        raise Wrong("command: * allows every name, which turns the protection off. List the names in use.")
    for host, who in {"mlflow:5000": "the notebook in the container", "127.0.0.1:5050": "your browser"}.items():
        names = {host, host.replace("127.0.0.1", "localhost")}
        if not any(fnmatch(name, pattern) for name in names for pattern in allowed):
            raise Wrong(f"command: with this list, {who} gets 403, because {host} is not in it.")


def _first_row_only(model, X):
    return list(model.predict(X.head(1))) == list(model.predict(X))[:1]


def _log_everything(run_id, table):
    import mlflow

    with mlflow.start_run(run_id=run_id):
        for year, values in table.iterrows():
            mlflow.log_metrics(values.to_dict(), step=year)


_COMMAND = "mlflow server --host 0.0.0.0 --port 5000 --backend-store-uri postgresql+psycopg://mlflow@postgres/mlflow"

EXERCISES = [
    Exercise(
        "05.1",
        test=reviewed,
        wrong=["yes", {"info": {"run_name": "by-http"}, "data": {"tags": [{"key": "reviewed", "value": "no"}]}}],
    ),
    Exercise("05.2", test=independence, wrong=[_first_row_only, True]),
    Exercise("05.3", test=from_code, wrong=["always-up", "0" * 32]),
    Exercise("05.4", test=resumed, wrong=[_log_everything, "resume"]),
    Exercise(
        "05.5",
        test=containers,
        wrong=[
            {"command": f"{_COMMAND} --artifacts-destination /artifacts", "tracking_uri": "http://mlflow:5000"},
            {"command": _COMMAND, "tracking_uri": "http://mlflow:5050"},
        ],
    ),
]
