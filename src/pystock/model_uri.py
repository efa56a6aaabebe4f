"""Model URIs: `models:/NAME@ALIAS`, `models:/NAME/VERSION` and `models:/MODEL_ID`, parsed and resolved."""

import re
from typing import TYPE_CHECKING, NamedTuple

from pystock.errors import PystockError, ignoring

if TYPE_CHECKING:  # at run time it is imported late: settings are read by programs that need no MLflow
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

VERSION_PATTERN = r"models:/[^/@]+(@[^/@]+|/[0-9]+)"  # a registered version, by alias or number
_URI = re.compile(r"models:/(?:(?P<model_id>m-[^/@]+)|(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+)))")
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second where an id has the wrong form


class ModelURIError(PystockError, ValueError):
    """A text that is not a model URI, or not one of a registered version."""


class ModelNotFound(PystockError, LookupError):
    """Raised if the store has no such registered model, alias or version."""


class ModelURI(NamedTuple):
    """The parts of a model URI: `model_id` alone, or `name` with either `alias` or `version`."""

    name: str | None = None
    alias: str | None = None
    version: int | None = None
    model_id: str | None = None


def parse(uri: str) -> ModelURI:
    """Return the parts of a model URI. Raises ModelURIError for any other text."""
    match = _URI.fullmatch(str(uri))
    if not match:
        raise ModelURIError(f"{str(uri)!r} is not a model URI: write models:/NAME@ALIAS or models:/NAME/VERSION.")
    version = int(match["version"]) if match["version"] else None
    return ModelURI(match["name"], match["alias"], version, match["model_id"])


def resolve(uri: str, client: "MlflowClient | None" = None) -> "ModelVersion":
    """Return the registered version behind a model URI, looked up once; an alias may point elsewhere a moment later.

    Raises ModelURIError for a text that is not one of a registered version, ModelNotFound if the store has no such
    name, alias or version, and MlflowException if the store does not respond or refuses.
    """
    parts = parse(uri)
    if parts.name is None:
        raise ModelURIError(f"{uri} is not a registered version: write models:/NAME@ALIAS or models:/NAME/VERSION.")
    return find_version(parts.name, parts.version, alias=parts.alias, client=client)


def find_version(
    name: str, version: object = None, *, alias: str | None = None, client: "MlflowClient | None" = None
) -> "ModelVersion":
    """Return a version of a registered model by number or alias; errors as `resolve`."""
    from mlflow import MlflowClient

    client = client or MlflowClient()
    with ignoring(*MISSING):
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, str(version))
    if alias:
        raise ModelNotFound(f"{name} has no alias {alias} in this store: promote a version, or use another model.")
    registered_model(name, client)
    known = sorted(int(each.version) for each in client.search_model_versions(f"name = '{name}'"))
    raise ModelNotFound(f"{name} has no version {version!r}: it has {', '.join(map(str, known)) or 'none yet'}.")


def registered_model(name: str, client: "MlflowClient") -> "RegisteredModel":
    """Return MLflow's RegisteredModel of a name, with its aliases. Raises ModelNotFound if there is none."""
    with ignoring("RESOURCE_DOES_NOT_EXIST"):
        return client.get_registered_model(name)
    raise ModelNotFound(f"There is no registered model {name!r}: register a version under that name first.")


def champion_version(name: str) -> str:
    """Return the number of the version with the alias `champion`, "" without one. Raises as `registered_model`."""
    from mlflow import MlflowClient

    return str(registered_model(name, MlflowClient()).aliases.get("champion", ""))


def uri_of(version: "ModelVersion") -> str:
    """Return the URI of a registered version."""
    return f"models:/{version.name}/{version.version}"


def model_id_of(version: "ModelVersion") -> str:
    """Return the id of the logged model that a registered version points at; "" if it points at none.

    `mlflow.register_model` leaves `model_id` empty, and names the model as the source.
    """
    source = version.source or ""
    return version.model_id or (source.removeprefix("models:/") if source.startswith("models:/m-") else "")
