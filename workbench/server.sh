#!/bin/sh
# Starts the MLflow server of the workbench. Its settings come from workbench/.env through compose.yaml.
set -eu

refuse() {
  echo "workbench: $*" >&2
  exit 1
}

case ",${COMPOSE_PROFILES:-}," in
  *,auth,*) auth=yes ;;
  *) auth=no ;;
esac

# Without authentication, anyone who can reach the port can change everything.
case ${WORKBENCH_BIND:-127.0.0.1} in
  127.* | localhost | ::1 | '[::1]') ;;
  *)
    [ $auth = yes ] || refuse "WORKBENCH_BIND=$WORKBENCH_BIND publishes MLflow beyond this machine, which is not allowed" \
      "without authentication: set COMPOSE_PROFILES=auth in workbench/.env too, or leave WORKBENCH_BIND empty."
    [ -n "${WORKBENCH_HOST:-}" ] || refuse "WORKBENCH_BIND=$WORKBENCH_BIND needs the host name that the class uses" \
      "for this machine: set WORKBENCH_HOST in workbench/.env."
    ;;
esac
case ${WORKBENCH_HOST:-} in
  *[!A-Za-z0-9.:-]*) refuse "WORKBENCH_HOST=$WORKBENCH_HOST is not a host name: give one name, without port or wildcard." ;;
esac

# The host names that clients may use: jupyter's, this machine's, the class's. Any other gets 403.
hosts='mlflow:5000,localhost:*,127.0.0.1:*'
if [ -n "${WORKBENCH_HOST:-}" ]; then
  hosts="$hosts,$WORKBENCH_HOST,$WORKBENCH_HOST:*"
  # requests from this server's own pages have its address as Origin
  export MLFLOW_SERVER_CORS_ALLOWED_ORIGINS="http://$WORKBENCH_HOST:$MLFLOW_PORT,https://$WORKBENCH_HOST"
fi

# give up on a silent database after 5 s: until then, its dead connections block all requests
patience='connect_timeout=5&tcp_user_timeout=5000'

set -- --host 0.0.0.0 --port 5000 \
  --workers 1 \
  --backend-store-uri "postgresql+psycopg://mlflow@postgres/mlflow?$patience" \
  --artifacts-destination /artifacts \
  --allowed-hosts "$hosts" \
  --enable-workspaces
if [ $auth = yes ]; then
  export MLFLOW_AUTH_CONFIG_PATH=/opt/workbench/basic_auth.ini
  set -- "$@" --app-name basic-auth
fi
exec mlflow server "$@"
