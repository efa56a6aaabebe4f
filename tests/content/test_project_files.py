"""The files that describe the environment of each MLflow project, against the checkout."""

import tomllib

import pytest
from fake_course import CHECKOUT
from mlflow.projects import load_project

BATCHES = ("pystock-data-features", "pystock-inference-batch", "pystock-pipeline", "pystock-training")
PROJECTS = (*BATCHES, "pystock-inference-api")
SERVES = 'extras = ["serve"]\n'  # what a service needs besides


@pytest.mark.parametrize("project", PROJECTS)
def test_a_project_describes_its_environment(project):
    folder = CHECKOUT / "projects" / project
    assert load_project(str(folder)).env_config_path == str(folder / "python_env.yaml")
    for name in ("python_env.yaml", "environment/pyproject.toml"):  # one text, but MLflow reads it in each project
        text = (folder / name).read_text()
        assert text.replace(SERVES, "") == (CHECKOUT / "projects" / PROJECTS[0] / name).read_text()
        assert (SERVES in text) == (project not in BATCHES and name.endswith("toml"))
    described = tomllib.loads((folder / "environment/pyproject.toml").read_text())["tool"]["hatch"]
    (source,) = described["build"]["dev-mode-dirs"]
    assert (folder / "environment" / source / "pystock/__init__.py").is_file()
    assert (folder / "environment" / described["metadata"]["hooks"]["custom"]["path"]).is_file()
