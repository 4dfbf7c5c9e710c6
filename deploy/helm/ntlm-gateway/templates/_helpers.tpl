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

{{- /* Where the credential guard counts failed logons. */ -}}
{{- define "ntlm-gateway.guardStore" -}}
{{- .Values.guard.store | default "memory" -}}
{{- end -}}

{{- /* The addresses of `upstream` and `upstreams`, as a JSON list. */ -}}
{{- define "ntlm-gateway.upstreamAddresses" -}}
{{- $addresses := list -}}
{{- $given := list .Values.upstream -}}
{{- range .Values.upstreams }}{{ $given = append $given .address }}{{ end -}}
{{- range $given -}}
{{- $addresses = concat $addresses (kindIs "string" . | ternary (splitList "," (toString .)) .) -}}
{{- end -}}
{{- without $addresses "" | toJson -}}
{{- end -}}

{{- /* The ports of addresses, each once, as a JSON list. The addresses are a JSON list, too. */ -}}
{{- define "ntlm-gateway.ports" -}}
{{- $ports := list -}}
{{- range fromJsonArray . -}}
{{- $ports = append $ports (regexFind "[0-9]+$" (trim .) | int) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{- /* The ports on which identities have clients of their own, as a JSON list. */ -}}
{{- define "ntlm-gateway.identityPorts" -}}
{{- $addresses := list -}}
{{- range .Values.identities }}{{ $addresses = concat $addresses (kindIs "string" .listen | ternary (list .listen) (.listen | default list)) }}{{ end -}}
{{- include "ntlm-gateway.ports" (toJson $addresses) -}}
{{- end -}}

{{- /* JSON's strings, numbers, booleans and arrays are TOML's, too; Helm's toToml writes numbers as floats. */ -}}
{{- define "ntlm-gateway.settings" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end -}}

{{- define "ntlm-gateway.toml" -}}
{{- if not .Values.upstreams }}
upstream = {{ required "upstream: name the corporate proxy as host:port" .Values.upstream | toJson }}
{{- end }}
{{- if or .Values.user (not .Values.identities) }}
user = {{ required "user: name the account, as DOMAIN\\name or name@domain" .Values.user | toJson }}
password_file = "/run/secrets/ntlm-gateway/password"
previous_password_file = "/run/secrets/ntlm-gateway/previous-password"
{{- end }}
listen = ["0.0.0.0:3128"]
allow_clients = {{ toJson .Values.allowClients }}
admin = "0.0.0.0:8128"
{{- include "ntlm-gateway.settings" .Values.settings }}
{{- with .Values.guard }}

[guard]
{{- include "ntlm-gateway.settings" . }}
{{- end }}
{{- with .Values.limits }}

[limits]
{{- include "ntlm-gateway.settings" . }}
{{- end }}

[timeouts]
shutdown_delay = "{{ int .Values.shutdownDelaySeconds }}s"
drain = "{{ int .Values.drainSeconds }}s"
{{- include "ntlm-gateway.settings" .Values.timeouts }}
{{- with .Values.kerberos }}

[kerberos]
{{- include "ntlm-gateway.settings" . }}
{{- end }}
{{- range $table := list "upstreams" "identities" "routes" }}
{{- range get $.Values $table }}

[[{{ $table }}]]
{{- include "ntlm-gateway.settings" . }}
{{- end }}
{{- end }}
{{- end -}}
