"""What chapter 01 prints for a reader's own computer works as printed, without the course."""

import os
import re
import subprocess
import sys
from pathlib import Path

from fake_course import CHECKOUT, clean_environment
from mlflow import MlflowClient

from course.chapters import select
from course.servers import MLFLOW_SERVER_ENVIRONMENT, start_server

BIN = Path(sys.executable).parent


def test_the_program_of_chapter_01_logs_to_a_plain_server(tmp_path):
    page = select("01")[0].source.read_text(encoding="utf-8").partition("## Outside this course")[2]
    (program,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    install, server, *client = "".join(re.findall(r"```bash\n(.+?)```", page, re.DOTALL)).splitlines()
    assert (install, server) == ("pip install mlflow", "mlflow server --port 5000")
    assert client == ["export MLFLOW_TRACKING_URI=http://127.0.0.1:5000", "python train.py"]
    assert not re.search("course|pystock", program)
    (tmp_path / "train.py").write_text(program, encoding="utf-8")
    (tmp_path / "data").symlink_to(CHECKOUT / "data")
    command = [BIN / "mlflow", *server.replace("5000", "{port}").split()[1:]]
    with start_server(command, env=MLFLOW_SERVER_ENVIRONMENT, cwd=tmp_path) as started:
        env = clean_environment(MLFLOW_TRACKING_URI=started.url, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")
        done = subprocess.run(client[1].split(), cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.stdout.startswith("test accuracy 0.528"), done.stderr
        mlflow = MlflowClient(started.url)
        (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("stockpred").experiment_id])
    assert run.info.run_name == "forest" and run.outputs.model_outputs
    assert (tmp_path / "mlflow.db").exists()
