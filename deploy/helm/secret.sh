#!/bin/sh
# Prints a Secret of the chart for the stores that it runs itself (stores.enabled), with passwords made up:
#
#     deploy/helm/secret.sh leaky | kubectl create --namespace leaky -f -
#
# The argument is the release's name. With stores of your own, write their URLs into the four *_url keys
# instead and leave out the four passwords. Keep keys_secret with your backups.
set -eu
release=${1:?name of the release}
word() { head -c 32 /dev/urandom | base64 | tr -dc 'A-Za-z0-9'; }
postgres=$(word) redis=$(word) nats=$(word) clickhouse=$(word)
cat <<EOF
apiVersion: v1
kind: Secret
metadata:
  name: leaky-tokens
type: Opaque
stringData:
  postgres_url: postgres://leaky:$postgres@$release-postgres:5432/leaky?sslmode=disable
  redis_url: redis://:$redis@$release-redis:6379/0
  nats_url: nats://leaky:$nats@$release-nats:4222
  clickhouse_url: http://leaky:$clickhouse@$release-clickhouse:8123/leaky
  postgres_password: $postgres
  redis_password: $redis
  nats_password: $nats
  clickhouse_password: $clickhouse
  keys_secret: $(word)
  admin_password: $(word)
EOF
