"""Score a file, or a folder of files, with one version of a registered model.

Exit code: 0 all rows are scored, 1 nothing new was written, 2 a parameter is wrong, 3 done with rows in quarantine.
"""

import os
import sys

# If the server is gone, fail within seconds: MLflow's default is four silent minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# XGBoost's threads would spin while they wait: on a shared or limited machine this slows the other processes down
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from functools import partial
from typing import Any

from pystock import batch, cli
from pystock.pipeline import run

MODEL = f"models:/NAME@ALIAS or models:/NAME/VERSION; default: {batch.MODEL}"
PARAMETERS: dict[str, dict[str, Any]] = {
    "input": {"type": cli.path, "required": True, "help": "a CSV or Parquet file, or a folder of them"},
    "output": {"type": cli.path, "required": True, "help": "a file, or a folder if the input is one"},
    "model": {"default": batch.MODEL, "help": MODEL},
    "format": {"default": "", "choices": ["", "csv", "parquet"], "help": "of the output; default: by its suffix"},
    "chunk_rows": {"type": partial(cli.whole_number, least=1), "default": batch.CHUNK_ROWS, "help": "rows at a time"},
    "run_time": {"default": "", "help": "the time of the predictions; default: when the job began"},
    "force": cli.yes_no("no", "score again, even if the output is up to date"),
}
options = cli.parse(__doc__, PARAMETERS)
try:
    batch.check_server()
except batch.BatchError as error:
    sys.exit(f"{batch.PIPELINE}: {error}")

failed = ""
try:
    with run(batch.PIPELINE, "main", {}):
        try:
            result = batch.score(**options)
        except batch.BatchError as error:
            failed = f"{batch.PIPELINE}: {error}"  # if the server is gone, ending the run fails with an unclear error
            raise
        print(result.said, flush=True)
        if result.quarantine:
            print(f"Rows that were not scored, with line and reason: {result.quarantine}", flush=True)
except SystemExit as ended:
    sys.exit(failed or ended.code)

sys.exit(3 if result.quarantined else 0)
