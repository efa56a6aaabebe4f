# The tracking server: MLflow with its authentication and its way to PostgreSQL, and nothing of the course.
FROM python:3.12-slim

# The packages first, from the lock alone: only a new lock makes this layer again.
RUN --mount=type=bind,source=requirements.lock,target=/build/requirements.lock \
    --mount=type=bind,source=workbench/install-locked.sh,target=/build/install-locked.sh \
    --mount=type=cache,target=/root/.cache \
    sh /build/install-locked.sh 'mlflow[auth]' 'psycopg[binary]'

# /artifacts belongs to the server's user before a volume is laid over it, and so does the volume.
RUN useradd --uid 1000 --create-home mlflow && install -d -o mlflow -g mlflow /artifacts

ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
COPY workbench/server.sh workbench/accounts.py workbench/basic_auth.ini /opt/workbench/
USER mlflow
WORKDIR /home/mlflow
EXPOSE 5000
CMD ["sh", "/opt/workbench/server.sh"]
