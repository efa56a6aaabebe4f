# The database: the official image, and the script that it runs on an empty volume.
FROM postgres:17
COPY workbench/database.sh /docker-entrypoint-initdb.d/10-mlflow.sh
USER postgres
