"""Train projects/stockpred, register its model as `stockpred-demo`, and set the alias `served` on the new version."""

import mlflow

NAME, ALIAS = "stockpred-demo", "served"

submitted = mlflow.projects.run("projects/stockpred", env_manager="local", experiment_name="example-stockpred")
client = mlflow.MlflowClient()
(model,) = client.get_run(submitted.run_id).outputs.model_outputs
version = mlflow.register_model(f"models:/{model.model_id}", NAME)
client.set_registered_model_alias(NAME, ALIAS, version.version)
print(f"The alias {ALIAS} of {NAME} is now on version {version.version}.")
