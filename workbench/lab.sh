#!/bin/sh
# Starts JupyterLab in the course folder. Its token is JUPYTER_TOKEN, which JupyterLab reads itself.
set -eu
python -c 'from course.copies import copy_notebooks; copy_notebooks()'
exec jupyter lab --no-browser --ip=0.0.0.0 --port=8888 --ServerApp.port_retries=0 --ServerApp.root_dir="$PWD" \
  --LabApp.default_url=/lab/tree/work
