#!/bin/sh
# Install the servers that the tests start by themselves: Redis and PostgreSQL, from the distribution.
set -eu
missing=""
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "The tests need$missing; install them with this system's package manager and run this again." >&2
    exit 1
fi
root=""
[ "$(id -u)" = 0 ] || root="sudo"
echo "Installing$missing"
$root apt-get update -qq
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends $missing >/dev/null
