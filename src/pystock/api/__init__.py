"""The inference API: a service that answers with the champion of a registered model.

`create_app` makes the application of one worker; projects/pystock-inference-api starts it. `schema` is the contract of
a request, `model` keeps the served version current, `settings` come from environment variables.
"""

__all__ = ["create_app"]


def __getattr__(name: str):
    # on first use: prometheus_client looks at its environment when it is imported, which main.py sets before that
    if name not in __all__:
        raise AttributeError(f"module 'pystock.api' has no attribute {name!r}")
    from pystock.api.app import create_app

    return create_app
