"""The inference API: a service that predicts with the champion of a registered model.

`create_app` makes the application of one worker; projects/pystock-inference-api starts it. `schema` has the contract of
requests, `model` keeps the served version current, `settings` come from environment variables.
"""

from typing import Any

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    # imported on first use, because prometheus_client reads variables when it is imported, which main.py sets before
    if name not in __all__:
        raise AttributeError(f"module 'pystock.api' has no attribute {name!r}")
    from pystock.api.app import create_app

    return create_app
