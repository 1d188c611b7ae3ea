{{- define "kith.pod" -}}
metadata:
  labels:
    {{- include "kith.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # The container of the commands `kubectl logs` and `kubectl exec`.
    kubectl.kubernetes.io/default-container: kith
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "kith.fullname" . }}
  automountServiceAccountToken: false
  # Kubernetes' variables of services are not settings of Kith.
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  # No preStop: after SIGTERM, Kith itself still accepts calls for the drain delay.
  terminationGracePeriodSeconds: {{ add .Values.drainDelaySeconds .Values.drainTimeSeconds .Values.drainTimeSeconds 10 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- if and (eq .Values.database.engine "postgres") .Values.database.postgres.migrationSecret }}
  initContainers:
    - name: migrate
      image: {{ include "kith.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: ["migrate"]
      env:
        - name: KITH_DATABASE_URL_FILE
          value: /etc/kith/migration/{{ .Values.database.postgres.secretKey }}
        - name: KITH_LOG_FORMAT
          value: {{ default "text" .Values.settings.KITH_LOG_FORMAT }}
      {{- include "kith.securityContext" . | nindent 6 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: migration
          mountPath: /etc/kith/migration
          readOnly: true
  {{- end }}
  containers:
    - name: kith
      image: {{ include "kith.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: ["serve"]
      env:
        {{- include "kith.environment" . | trim | nindent 8 }}
      ports:
        - name: grpc
          containerPort: 50051
        - name: metrics
          containerPort: {{ .Values.metrics.port }}
      # The process is NOT_SERVING until its database is there and migrated. Kith ends by itself if that fails.
      startupProbe:
        {{- include "kith.probe" (dict "tls" .Values.tls.existingSecret "service" "" "failures" 120) | trim | nindent 8 }}
      # The process, not its database, which a restart does not mend.
      livenessProbe:
        {{- include "kith.probe" (dict "tls" .Values.tls.existingSecret "service" "" "failures" 6) | trim | nindent 8 }}
      # Reads and writes succeed.
      readinessProbe:
        {{- include "kith.probe" (dict "tls" .Values.tls.existingSecret "service" "kith.v1.ConnectionRequestService" "failures" 2) | trim | nindent 8 }}
      {{- include "kith.securityContext" . | nindent 6 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      {{- with include "kith.mounts" . | trim }}
      volumeMounts:
        {{- . | nindent 8 }}
      {{- end }}
  {{- with include "kith.volumes" . | trim }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.database.engine "postgres" }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: {{ $.Values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "kith.selector" $ | nindent 10 }}
      # Those of the same revision: the old pods of an update do not count.
      matchLabelKeys:
        - pod-template-hash
    {{- end }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "kith.securityContext" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: ["ALL"]
{{- end }}

{{- define "kith.mounts" -}}
{{- if eq .Values.database.engine "sqlite" }}
- name: data
  mountPath: /data
# SQLite's temporary files.
- name: tmp
  mountPath: /tmp
{{- else }}
- name: database
  mountPath: /etc/kith/database
  readOnly: true
{{- end }}
{{- if .Values.auth.principalsSecret }}
- name: principals
  mountPath: /etc/kith/principals
  readOnly: true
{{- end }}
{{- if .Values.tls.existingSecret }}
- name: tls
  mountPath: /etc/kith/tls
  readOnly: true
{{- end }}
{{- end }}

{{- /* Kith reads the files of Secrets again when they change, but for the URL of the database. */}}
{{- define "kith.volumes" -}}
{{- if eq .Values.database.engine "sqlite" }}
- name: tmp
  emptyDir: {}
{{- else }}
{{- include "kith.secretVolume" (list "database" .Values.database.postgres.existingSecret) }}
{{- with .Values.database.postgres.migrationSecret }}
{{- include "kith.secretVolume" (list "migration" .) }}
{{- end }}
{{- end }}
{{- with .Values.auth.principalsSecret }}
{{- include "kith.secretVolume" (list "principals" .) }}
{{- end }}
{{- with .Values.tls.existingSecret }}
{{- include "kith.secretVolume" (list "tls" .) }}
{{- end }}
{{- end }}

{{- define "kith.secretVolume" }}
- name: {{ index . 0 }}
  secret:
    secretName: {{ index . 1 }}
    defaultMode: 0440
{{- end }}
