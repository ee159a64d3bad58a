#!/bin/sh
# Patroni calls this once, on the first leader of a new cluster. $1 is a connection string of the superuser.
set -eu
psql -X -q -v ON_ERROR_STOP=1 -f "$(dirname "$0")/lab.sql" "$1"
