"""One very good solution of the task of part 2. Read it after you have written yours."""

import mlflow
import numpy as np
import optuna
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

EXPERIMENT, TRIALS = "diabetes", 12
SPLIT = {"test_size": 0.3, "random_state": 0}
FOLDS = KFold(5, shuffle=True, random_state=0)
TREES = ["sklearn.tree._tree.Tree"]  # skops loads trees only if you say that you trust the file, which is your own

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X_train, X_test, y_train, y_test = train_test_split(X, y, **SPLIT)
data = mlflow.data.from_pandas(X_train.assign(progression=y_train), targets="progression", name="diabetes-train")


def ridge(trial):
    return make_pipeline(StandardScaler(), Ridge(alpha=trial.suggest_float("alpha", 0.01, 1000, log=True)))


def boosting(trial):
    return GradientBoostingRegressor(
        learning_rate=trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
        n_estimators=trial.suggest_int("n_estimators", 20, 200),
        max_depth=trial.suggest_int("max_depth", 1, 4),
        random_state=0,
    )


def validation_error(model):
    """Return the mean absolute error over the folds of the training rows. The test rows take no part."""
    return -cross_val_score(model, X_train, y_train, cv=FOLDS, scoring="neg_mean_absolute_error").mean()


def tune(family, build):
    """Tune a family in a run with a child run per trial. Return the absolute error of each test row, and the run."""
    with mlflow.start_run(run_name=f"{family}-tuned") as parent:
        mlflow.set_tags({"stage": "tuning", "family": family})
        mlflow.log_params({"trials": TRIALS, "folds": FOLDS.get_n_splits(), **SPLIT})
        mlflow.log_input(data, context="training")

        def objective(trial):
            with mlflow.start_run(run_name=f"{family}-trial-{trial.number:02}", nested=True):
                mlflow.set_tags({"stage": "trial", "family": family})
                error = validation_error(build(trial))
                mlflow.log_params(trial.params)
                mlflow.log_metric("validation_mae", error)
                return error

        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        study.optimize(objective, n_trials=TRIALS)
        model = build(optuna.trial.FixedTrial(study.best_params)).fit(X_train, y_train)
        errors = np.abs(model.predict(X_test) - y_test)
        mlflow.log_params({f"best_{name}": value for name, value in study.best_params.items()})
        mlflow.log_metrics({"validation_mae": study.best_value, "test_mae": errors.mean()})
        signature = infer_signature(X_train, model.predict(X_train))
        described = {"signature": signature, "input_example": X_train.head(3), "skops_trusted_types": TREES}
        mlflow.sklearn.log_model(model, name="model", **described)
        return errors.to_numpy(), parent.info.run_id


def interval(differences, samples=2000):
    """Return the 95 % interval of the mean of paired differences of independent rows, by the bootstrap."""
    drawn = np.random.default_rng(0).integers(len(differences), size=(samples, len(differences)))
    return np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])


optuna.logging.set_verbosity(optuna.logging.WARNING)
experiment = mlflow.set_experiment(EXPERIMENT)
simple, _ = tune("ridge", ridge)
flexible, run_id = tune("boosting", boosting)

difference, (low, high) = (flexible - simple).mean(), interval(flexible - simple)
with mlflow.start_run(run_id=run_id):
    mlflow.log_metrics({"mae_minus_ridge": difference, "mae_minus_ridge_low": low, "mae_minus_ridge_high": high})
# the smaller error wins if the whole interval says so; else the simpler model does
winner = "boosting" if high < 0 else "ridge"
mlflow.set_experiment_tags(
    {
        "decision": f"{winner}: boosting minus ridge is {difference:.1f} [{low:.1f}, {high:.1f}]",
        "test_set": "used once for each of the two tuned models, and for the choice between them",
    }
)
print(mlflow.get_experiment(experiment.experiment_id).tags["decision"])
