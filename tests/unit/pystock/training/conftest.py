import pytest
from training_runs import leave, trained_store, use

from course import store


@pytest.fixture(scope="module")
def trained(tmp_path_factory, empty_store):
    """A store with a data run and one model, trained on its table and evaluated: never written to. And the two ids."""
    yield trained_store(tmp_path_factory.mktemp("trained") / "store", empty_store)
    leave()


@pytest.fixture
def tracked(trained, tmp_path):
    """A copy of it, and the two ids."""
    folder, made, model = trained
    store.copy(folder, tmp_path / "store")
    use(tmp_path / "store")
    yield made, model
    leave()
