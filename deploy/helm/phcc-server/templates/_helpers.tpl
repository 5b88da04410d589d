{{- define "phcc.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "phcc.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "phcc.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "phcc.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
# OnRootMismatch: without it, each start would make every secret readable by the group, and phcc refuses those.
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "phcc.liveness" -}}
# Whether the supervisor answers; what it supervises, it starts again itself.
exec:
  command:
    - python
    - -c
    - import urllib.request as u; u.urlopen("http://127.0.0.1:{{ .Values.metrics.port }}/metrics", timeout=20)
initialDelaySeconds: 60
periodSeconds: 60
timeoutSeconds: 25
failureThreshold: 10
{{- end }}

{{- define "phcc.sidecar" -}}
- name: prometheus
  image: {{ .Values.metrics.sidecar.image }}
  args:
    - --config.file=/etc/prometheus/prometheus.yaml
    - --storage.tsdb.path=/prometheus
    - --storage.tsdb.retention.time=6h
  ports:
    - {name: prometheus, containerPort: 9090}
  securityContext:
    {{- include "phcc.containerSecurity" . | nindent 4 }}
  resources:
    requests: {cpu: 50m, memory: 128Mi}
    limits: {memory: 512Mi}
  volumeMounts:
    - {name: prometheus-config, mountPath: /etc/prometheus, readOnly: true}
    - {name: prometheus, mountPath: /prometheus}
{{- end }}

{{- define "phcc.sidecarConfig" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-prometheus
  labels:
    {{- include "phcc.labels" . | nindent 4 }}
data:
  prometheus.yaml: |
    scrape_configs:
      - job_name: {{ .Chart.Name }}
        scrape_interval: 60s
        static_configs:
          - targets: ["127.0.0.1:{{ .Values.metrics.port }}"]
{{- end }}
