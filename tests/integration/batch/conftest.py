from batch_jobs import champion, days  # noqa: F401 - fixtures
