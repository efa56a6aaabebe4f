import promotions
import pytest

from pystock.registry import promotion


@pytest.fixture
def tracked(tmp_path, empty_store, monkeypatch):
    """A store of this test's own; its URI."""
    yield from promotions.using(promotions.own_store(empty_store, tmp_path), tmp_path, monkeypatch)


@pytest.fixture
def no_gate(monkeypatch):
    monkeypatch.setattr(promotion, "judge", promotions.passes)
