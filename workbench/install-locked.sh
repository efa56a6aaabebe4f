#!/bin/sh
# Used while an image is built: creates /opt/venv with the named packages and their dependencies, at the versions and
# hashes in requirements.lock. A package that is not in the lock, or has another hash there, stops the build.
#
#   install-locked.sh NAME[EXTRA]... [-- ARGUMENTS OF uv pip install]
set -eu
cd "$(dirname "$0")"

# uv itself comes from pip, checked against the lock's hash, into a folder that only this build step uses
sed -n '/^uv==/,/# via/p' requirements.lock >/tmp/uv.txt
pip install --quiet --disable-pip-version-check --root-user-action ignore --require-hashes --no-deps \
  --target /tmp/uv -r /tmp/uv.txt

wanted=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  name=${1%%\[*}
  version=$(sed -n "s/^$name==\([^ ]*\).*/\1/p" requirements.lock)
  wanted="$wanted $1==$version"
  shift
done
[ $# -eq 0 ] || shift

# the cache is on another file system, so hard links do not work; pip and uv trust the system's certificates
export UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
/tmp/uv/bin/uv venv --quiet /opt/venv
# shellcheck disable=SC2086  # the names are separate words
/tmp/uv/bin/uv pip install --quiet --python /opt/venv/bin/python --compile-bytecode --require-hashes \
  --constraint requirements.lock "$@" $wanted
rm -rf /tmp/uv /tmp/uv.txt
