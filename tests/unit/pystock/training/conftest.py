from training_runs import tracked, trained  # noqa: F401 - fixtures
