"""The exercises of chapter 12."""

from course.checks import Exercise, Wrong
from pystock.data import named
from pystock.registry.acceptance import signature

BODY = b'{"entity": "model_version_tag", "action": "set"}'


def _champion(market):
    import mlflow

    client = mlflow.MlflowClient()
    try:
        return client, client.get_model_version_by_alias(named("pystock-big-move", market), "champion")
    except mlflow.MlflowException:
        raise Wrong("This store has no champion yet: run the chapter up to its exercises first.") from None


def training_digest(answer, market):
    client, champion = _champion(market)
    inputs = client.get_run(champion.run_id).inputs.dataset_inputs
    found = {each.dataset.digest: {tag.key: tag.value for tag in each.tags} for each in inputs}
    right = [digest for digest, tags in found.items() if tags.get("mlflow.data.context") == "training"]
    if answer in right:
        return
    if answer in found:
        raise Wrong("That is another data set of the same run: use the one with the context training.")
    if answer in [each.dataset.name for each in inputs]:
        raise Wrong("That is the name of the data set: two tables can have the same name, so give the digest.")
    raise Wrong("Go from the alias to the version, to its run, and to the inputs of that run.")


def event_signature(answer, market):
    if not isinstance(answer, str):
        raise Wrong("Give the value of the header as text. It begins with v1.")
    right = signature("open sesame", "d-1", "1700000000", BODY)
    if answer == right:
        return
    if f"v1,{answer}" == right:
        raise Wrong("Nearly: the header begins with v1 and a comma, which name the version of the scheme.")
    if answer == signature("open sesame", "", "", BODY) or answer.count("=") != right.count("="):
        raise Wrong("Join the three parts with dots, sign them, and encode the 32 bytes in base64, not in hexadecimal.")
    raise Wrong("Check what you sign: the delivery's id, its timestamp and the body, in this order, joined with dots.")


def put_away(answer, market):
    import mlflow

    client, champion = _champion(market)
    name = named("pystock-big-move", market)
    if not isinstance(answer, (int, str)) or not str(answer).isdigit():
        raise Wrong("Give the number of the version that you archived.")
    try:
        version = client.get_model_version(name, str(answer))
    except mlflow.MlflowException:
        raise Wrong(f"{name} has no version {answer}.") from None
    if version.version == champion.version:
        raise Wrong(f"Version {answer} is the champion: archive the challenger instead.")
    if not client.get_run(version.run_id).info.run_name.endswith("-challenger"):
        raise Wrong(f"Version {answer} is not the challenger: the name of its source run does not end in -challenger.")
    if (state := version.tags.get("lifecycle")) != "Archived":
        raise Wrong(f"The tag lifecycle of version {answer} is {state}: set it to Archived.")
    aliases = client.get_registered_model(name).aliases
    if "challenger" in aliases:
        raise Wrong(f"The alias challenger still points to version {aliases['challenger']}: delete it.")
    if not (version.description or "").strip():
        raise Wrong(f"Version {answer} has no description: write down why you archived it.")


EXERCISES = [
    Exercise("12.1", test=training_digest, wrong=["champion", "sp500-big_move-volatility"]),
    Exercise("12.2", test=event_signature, wrong=["v1,b3BlbiBzZXNhbWU=", "v1,d-1.1700000000"]),
    Exercise("12.3", test=put_away, wrong=[1, "challenger"]),
]
