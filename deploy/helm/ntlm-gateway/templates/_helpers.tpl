{{- define "ntlm-gateway.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "ntlm-gateway.selector" -}}
app.kubernetes.io/name: ntlm-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ntlm-gateway.labels" -}}
{{ include "ntlm-gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "ntlm-gateway.monitoringLabels" -}}
{{ include "ntlm-gateway.labels" . }}
{{- with .Values.monitoring.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "ntlm-gateway.secret" -}}
{{- .Values.password.existingSecret | default (include "ntlm-gateway.name" .) -}}
{{- end -}}

{{- /* JSON's strings, numbers, booleans and arrays are TOML's, too; Helm's toToml writes numbers as floats. */ -}}
{{- define "ntlm-gateway.toml" -}}
upstream = {{ toJson .Values.upstream }}
user = {{ toJson .Values.user }}
password_file = "/run/secrets/ntlm-gateway/password"
listen = ["0.0.0.0:3128"]
allow_clients = {{ toJson .Values.allowClients }}
admin = "0.0.0.0:9100"
{{- range $key, $value := .Values.settings }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- with .Values.limits }}

[limits]
{{- range $key, $value := . }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}

[timeouts]
shutdown_delay = "{{ int .Values.shutdownDelaySeconds }}s"
drain = "{{ int .Values.drainSeconds }}s"
{{- range $key, $value := .Values.timeouts }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end -}}
