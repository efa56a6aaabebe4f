# JupyterLab and the whole course: every chapter runs in it.
FROM python:3.12-slim

# The packages come first, from the lock and pyproject.toml, so that a change to the course's text does not rebuild them.
# Hatchling and editables make the course itself importable, further down. TensorFlow's 290 MB of C++ headers are removed.
RUN --mount=type=bind,source=requirements.lock,target=/build/requirements.lock \
    --mount=type=bind,source=pyproject.toml,target=/build/pyproject.toml \
    --mount=type=bind,source=workbench/install-locked.sh,target=/build/install-locked.sh \
    --mount=type=cache,target=/root/.cache \
    sh /build/install-locked.sh hatchling editables -- \
    -r pyproject.toml --extra course --extra auth --extra deep --extra serve \
 && rm -r /opt/venv/lib/python3.*/site-packages/tensorflow/include

# tini is process 1: it reaps the child processes of a killed kernel, which would otherwise stay as zombies.
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*

# Both folders belong to the user before a volume is mounted on them, so the volumes do, too.
RUN useradd --uid 1000 --create-home --shell /bin/bash learner \
 && install -d -o learner -g learner /home/learner/course /home/learner/course/work /home/learner/course/.course
WORKDIR /home/learner/course
ENV PATH=/opt/venv/bin:$PATH SHELL=/bin/bash GIT_PYTHON_REFRESH=quiet PYDEVD_DISABLE_FILE_VALIDATION=1 COURSE_SUBSET=1

# The course's code, importable in place. It installs no other package.
COPY --chown=learner:learner pyproject.toml README.md LICENSE ./
COPY --chown=learner:learner src src
RUN pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . \
 && python -c "import json, pathlib, course.lab; \
settings = pathlib.Path('/opt/venv/share/jupyter/lab/settings/overrides.json'); \
settings.parent.mkdir(parents=True, exist_ok=True); settings.write_text(json.dumps(course.lab.NO_POP_UP))"

# The course's text comes last.
COPY --chown=learner:learner . .
USER learner
EXPOSE 8888
ENTRYPOINT ["tini", "-g", "--"]
CMD ["sh", "workbench/lab.sh"]
