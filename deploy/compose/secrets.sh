#!/bin/sh
# Makes the passwords of the compose stack, and the URLs that hold them, below deploy/compose/secrets. What
# is there stays. The files are readable for the containers' users, the folder for its owner alone.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets && chmod 700 secrets && cd secrets
make() { test -s "$1" || { head -c 32 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' > "$1" && chmod 444 "$1"; }; }
url() { test -s "$1" || { printf '%s' "$2" > "$1" && chmod 444 "$1"; }; }
for one in postgres_password redis_password nats_password clickhouse_password keys_secret admin_password; do make $one; done
url postgres_url "postgres://leaky:$(cat postgres_password)@postgres:5432/leaky?sslmode=disable"
url redis_url "redis://:$(cat redis_password)@redis:6379/0"
url nats_url "nats://leaky:$(cat nats_password)@nats:4222"
url clickhouse_url "http://leaky:$(cat clickhouse_password)@clickhouse:8123/leaky"
echo "The first administrator is admin, with the password in $PWD/admin_password."
