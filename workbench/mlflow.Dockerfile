# The tracking server: MLflow with authentication and a PostgreSQL driver, without the course.
FROM python:3.12-slim

# The packages come first, from the lock only, so that only a new lock rebuilds this layer.
RUN --mount=type=bind,source=requirements.lock,target=/build/requirements.lock \
    --mount=type=bind,source=workbench/install-locked.sh,target=/build/install-locked.sh \
    --mount=type=cache,target=/root/.cache \
    sh /build/install-locked.sh 'mlflow[auth]' 'psycopg[binary]'

# /artifacts belongs to the server's user before a volume is mounted on it, so the volume does, too.
RUN useradd --uid 1000 --create-home mlflow && install -d -o mlflow -g mlflow /artifacts

ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
COPY workbench/server.sh workbench/accounts.py workbench/basic_auth.ini /opt/workbench/
USER mlflow
WORKDIR /home/mlflow
EXPOSE 5000
CMD ["sh", "/opt/workbench/server.sh"]
