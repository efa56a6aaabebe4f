"""Model URIs: what is one, and which version it leads to."""

import mlflow
import promotions
import pytest
from messages import assert_on_page
from mlflow.entities.model_registry import ModelVersion

from pystock.model_uri import ModelNotFound, ModelURI, ModelURIError, model_id_of, parse, resolve


@pytest.mark.parametrize(("uri", "parts"), [
    ("models:/pystock-big-move@champion", ModelURI("pystock-big-move", alias="champion")),
    ("models:/a model/12", ModelURI("a model", version=12)),
    ("models:/m-0123", ModelURI(model_id="m-0123")),
    ("models:/m-0123/3", ModelURI("m-0123", version=3)),  # a name may begin like an id
])  # fmt: skip
def test_a_uri_is_parsed(uri, parts):
    assert parse(uri) == parts


@pytest.mark.parametrize(
    "text", ["", "a-model", "models:/name", "models:/name/latest", "models:/name/1/2", "models:/a@b@c", "runs:/1/m"]
)
def test_other_texts_are_named_with_the_two_forms(text):
    with pytest.raises(ModelURIError) as error:
        parse(text)
    assert str(error.value) == f"{text!r} is not a model URI: write models:/NAME@ALIAS or models:/NAME/VERSION."


def test_alias_and_number_lead_to_the_version(tracked):
    client, name = mlflow.MlflowClient(), promotions.registered(2)
    client.set_registered_model_alias(name, "champion", "2")
    assert [int(resolve(f"models:/{name}{end}", client).version) for end in ("@champion", "/2", "/1")] == [2, 2, 1]
    with pytest.raises(ModelNotFound, match=f"^{name} has no version 7: it has 1, 2.$"):
        resolve(f"models:/{name}/7")
    for known in (name, "nobody"):
        with pytest.raises(ModelNotFound, match=f"^{known} has no alias rival in this store: ") as caught:
            resolve(f"models:/{known}@rival")
        assert_on_page("promote a version", str(caught.value))
    with pytest.raises(ModelNotFound, match="^There is no registered model 'nobody': register a version under"):
        resolve("models:/nobody/1")
    with pytest.raises(ModelURIError, match="models:/m-1 is not a registered version: write models:/NAME"):
        resolve("models:/m-1")


def test_the_logged_model_of_a_version_is_found_in_its_source_too():
    assert model_id_of(ModelVersion("name", "1", 0, source="models:/m-7")) == "m-7"
    assert model_id_of(ModelVersion("name", "1", 0, source="s3://nowhere/model")) == ""
    assert model_id_of(ModelVersion("name", "1", 0, source="s3://nowhere/model", model_id="m-8")) == "m-8"
