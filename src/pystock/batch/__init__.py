"""Batch inference: score files and folders with one version of a registered model, and resume after a crash.

`score` is the job; projects/pystock-inference-batch calls it. `rows` reads and checks the input, `resume` keeps the
finished chunks of an interrupted job.
"""

from pystock.batch.job import CHUNK_ROWS, MODEL, PIPELINE, WRITTEN, JobResult, check_server, score
from pystock.batch.rows import BatchError

__all__ = ["CHUNK_ROWS", "MODEL", "PIPELINE", "WRITTEN", "BatchError", "JobResult", "check_server", "score"]
