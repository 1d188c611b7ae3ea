{{- define "kith.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "kith.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "kith.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "kith.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "kith.selector" -}}
app.kubernetes.io/name: {{ include "kith.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kith.labels" -}}
{{ include "kith.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: server
app.kubernetes.io/part-of: kith
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "kith.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- /* Values with which Kith would not start. */}}
{{- define "kith.check" -}}
{{- $auth := .Values.auth }}
{{- if not (or $auth.principalsSecret $auth.jwt.keys $auth.insecureAllowAnonymous) }}
{{- fail "say who may call: auth.principalsSecret, auth.jwt.keys or auth.insecureAllowAnonymous" }}
{{- end }}
{{- if and $auth.insecureAllowAnonymous (or $auth.principalsSecret $auth.jwt.keys) }}
{{- fail "auth.insecureAllowAnonymous is for a server without auth.principalsSecret and auth.jwt.keys" }}
{{- end }}
{{- if and $auth.jwt.keys (not (and $auth.jwt.issuer $auth.jwt.audience)) }}
{{- fail "auth.jwt.keys needs auth.jwt.issuer and auth.jwt.audience" }}
{{- end }}
{{- if and (eq .Values.database.engine "postgres") (not .Values.database.postgres.existingSecret) }}
{{- fail "database.postgres.existingSecret is the Secret with the URL of PostgreSQL; or set database.engine=sqlite" }}
{{- end }}
{{- if and .Values.tls.clientCa (not .Values.tls.existingSecret) }}
{{- fail "tls.clientCa needs tls.existingSecret" }}
{{- end }}
{{- end }}

{{- /* A probe of a gRPC service. Kubernetes' own speaks no TLS; then it is a command in the container. */}}
{{- define "kith.probe" -}}
{{- if .tls }}
exec:
  command: ["/usr/local/bin/kith", "healthcheck", "--service={{ .service }}"]
{{- else }}
grpc:
  port: 50051
  {{- with .service }}
  service: {{ . }}
  {{- end }}
{{- end }}
periodSeconds: 5
timeoutSeconds: 4
failureThreshold: {{ .failures }}
{{- end }}

{{- define "kith.environment" -}}
{{- $settings := dict
  "KITH_LISTEN" "0.0.0.0:50051"
  "KITH_METRICS_LISTEN" (printf "0.0.0.0:%v" .Values.metrics.port)
  "KITH_DRAIN_DELAY" (printf "%vs" .Values.drainDelaySeconds)
  "KITH_DRAIN_TIME" (printf "%vs" .Values.drainTimeSeconds)
}}
{{- if eq .Values.database.engine "sqlite" }}
{{- $_ := set $settings "KITH_DATABASE_URL" "sqlite:///data/kith.db" }}
{{- else }}
{{- $_ := set $settings "KITH_DATABASE_URL_FILE" (printf "/etc/kith/database/%s" .Values.database.postgres.secretKey) }}
{{- if .Values.database.postgres.migrationSecret }}
{{- $_ := set $settings "KITH_MIGRATE" "false" }}
{{- end }}
{{- end }}
{{- if .Values.auth.insecureAllowAnonymous }}
{{- $_ := set $settings "KITH_INSECURE_ALLOW_ANONYMOUS" "true" }}
{{- end }}
{{- if .Values.auth.principalsSecret }}
{{- $_ := set $settings "KITH_PRINCIPALS" (printf "/etc/kith/principals/%s" .Values.auth.principalsKey) }}
{{- end }}
{{- with .Values.auth.jwt }}
{{- if .keys }}
{{- $_ := set $settings "KITH_JWT_KEYS" .keys }}
{{- $_ := set $settings "KITH_JWT_ISSUER" .issuer }}
{{- $_ := set $settings "KITH_JWT_AUDIENCE" .audience }}
{{- end }}
{{- end }}
{{- if .Values.tls.existingSecret }}
{{- $_ := set $settings "KITH_TLS_CERTIFICATE" "/etc/kith/tls/tls.crt" }}
{{- $_ := set $settings "KITH_TLS_KEY" "/etc/kith/tls/tls.key" }}
{{- if .Values.tls.clientCa }}
{{- $_ := set $settings "KITH_TLS_CLIENT_CA" "/etc/kith/tls/ca.crt" }}
{{- end }}
{{- end }}
{{- range $name, $value := mergeOverwrite $settings .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
