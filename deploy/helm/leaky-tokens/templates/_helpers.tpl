{{- define "leaky.name" -}}
{{- printf "%s" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "leaky.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* Labels of all objects; those that select pods of a component are leaky.selector. */ -}}
{{- define "leaky.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: leaky-tokens
{{- end }}

{{- /* (dict "root" . "component" "gateway") */ -}}
{{- define "leaky.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "leaky.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch # secrets in the state folder keep their mode 0600
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "leaky.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* What every container of ours has: its settings, the stores' URLs as files. */ -}}
{{- define "leaky.env" -}}
- {name: LEAKY_CONFIG, value: /etc/leaky/config/leaky.yaml}
- {name: LEAKY_STATE_DIR, value: /var/lib/leaky-tokens}
- {name: LEAKY_POSTGRES_URL_FILE, value: /etc/leaky/secrets/postgres_url}
- {name: LEAKY_REDIS_URL_FILE, value: /etc/leaky/secrets/redis_url}
- {name: LEAKY_NATS_URL_FILE, value: /etc/leaky/secrets/nats_url}
- {name: LEAKY_CLICKHOUSE_URL_FILE, value: /etc/leaky/secrets/clickhouse_url}
{{- end }}

{{- /* leaky.yaml: where the parts listen, and over it what the values say. */ -}}
{{- define "leaky.config" -}}
{{- $base := dict
  "gateway" (dict "listen" "0.0.0.0:8080")
  "envoy" (dict "metrics" "0.0.0.0:9901")
  "monitoring" (dict "prometheus" "off" "alertmanager" "off")
  "auth" (dict "development" false)
  "services" (dict
    "xds" (dict "http" "0.0.0.0:8888" "grpc" "unix:run/xds.sock")
    "identity" (dict "http" "0.0.0.0:8081")
    "extauthz" (dict "http" "0.0.0.0:8085" "grpc" "unix:run/extauthz.sock")
    "ratelimit" (dict "http" "0.0.0.0:8084" "grpc" "unix:run/ratelimit.sock")
    "meter" (dict "http" "0.0.0.0:8086")
    "tokensvc" (dict "http" "0.0.0.0:8082")
    "analytics" (dict "http" "0.0.0.0:8083")
    "console" (dict "http" "0.0.0.0:8088")) -}}
{{- if .Values.limits }}{{ $_ := set $base "limits" (dict "file" "limits.yaml") }}{{ end -}}
{{- if .Values.prices }}{{ $_ := set $base "prices" (dict "file" "prices.yaml") }}{{ end -}}
{{- if .Values.stubs.enabled -}}
{{- $stubs := printf "http://%s-stubs" (include "leaky.name" .) -}}
{{- $_ := set $base.services "stub_openai" (dict "http" "0.0.0.0:8093") -}}
{{- $_ := set $base.services "stub_payment" (dict "http" "0.0.0.0:8094") -}}
{{- $_ := set $base "purchases" (dict "payment" (dict "url" (printf "%s:8094" $stubs))) -}}
{{- if not .Values.config.providers -}}
{{- $_ := set $base "providers" (dict "openai" (dict "protocol" "openai" "url" (printf "%s:8093" $stubs) "tokens_per_byte" 0.25)) -}}
{{- $_ := set $base "models" (list (dict "name" "gpt-4o" "provider" "openai") (dict "name" "gpt-4o-mini" "provider" "openai")) -}}
{{- end -}}
{{- end -}}
{{ toYaml (mustMergeOverwrite $base (deepCopy .Values.config)) }}
{{- end }}

{{- /* The namespaces whose EndpointSlices xds follows, by config.discovery.kubernetes; empty: none. */ -}}
{{- define "leaky.lookedUp" -}}
{{- $in := list -}}
{{- $kubernetes := dig "discovery" "kubernetes" dict .Values.config | default dict -}}
{{- range list "providers" "services" -}}
{{- range dig . dict $kubernetes -}}
{{- $in = append $in (. | splitList "/" | first) -}}
{{- end -}}
{{- end -}}
{{- $in | uniq | sortAlpha | join " " -}}
{{- end }}

{{- define "leaky.mounts" -}}
- {name: state, mountPath: /var/lib/leaky-tokens}
- {name: run, mountPath: /var/lib/leaky-tokens/run}
- {name: tmp, mountPath: /tmp}
- {name: config, mountPath: /etc/leaky/config, readOnly: true}
- {name: secrets, mountPath: /etc/leaky/secrets, readOnly: true}
{{- if .Values.providerKeysSecret }}
- {name: providers, mountPath: /etc/leaky/providers, readOnly: true}
{{- end }}
{{- end }}

{{- define "leaky.configData" -}}
leaky.yaml: |
  {{- include "leaky.config" . | nindent 2 }}
{{- with .Values.limits }}
limits.yaml: |
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.prices }}
prices.yaml: |
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The ports for probes and metrics, by part. */ -}}
{{- define "leaky.ports" -}}
{xds: 8888, identity: 8081, extauthz: 8085, ratelimit: 8084, tokensvc: 8082, analytics: 8083, console: 8088, meter: 8086}
{{- end }}

{{- /* uid: of the image's own user; keep: where its data is; writes: folders that it needs beside. */ -}}
{{- define "leaky.stores" -}}
postgres:
  uid: 999
  port: 5432
  keep: /var/lib/postgresql
  writes: [/var/run/postgresql, /tmp]
  env:
    - {name: POSTGRES_USER, value: leaky}
    - {name: POSTGRES_DB, value: leaky}
    - {name: POSTGRES_PASSWORD_FILE, value: /run/secrets/leaky/password}
  ready: [pg_isready, -U, leaky]
redis:
  uid: 999
  port: 6379
  keep: /data
  writes: [/tmp]
  command: [sh, -c, 'exec valkey-server --requirepass "$(cat /run/secrets/leaky/password)" --dir /data --appendonly yes --save "" --maxmemory-policy noeviction']
  ready: [sh, -c, 'REDISCLI_AUTH="$(cat /run/secrets/leaky/password)" valkey-cli ping | grep -q PONG']
nats:
  uid: 65532
  port: 4222
  keep: /data
  writes: [/tmp]
  command: [sh, -c, 'exec nats-server --jetstream --store_dir /data --http_port 8222 --user leaky --pass "$(cat /run/secrets/leaky/password)"']
  ready: [wget, -qO-, "http://127.0.0.1:8222/healthz?js-enabled-only=true"]
clickhouse:
  uid: 101
  port: 8123
  keep: /var/lib/clickhouse
  writes: [/var/log/clickhouse-server, /etc/clickhouse-server/users.d, /tmp]
  env:
    - {name: CLICKHOUSE_USER, value: leaky}
    - {name: CLICKHOUSE_DB, value: leaky}
    - {name: CLICKHOUSE_PASSWORD_FILE, value: /run/secrets/leaky/password}
  ready: [wget, -qO-, "http://127.0.0.1:8123/ping"]
{{- end }}

{{- /* Everybody may ask names. */ -}}
{{- define "leaky.dns" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}
