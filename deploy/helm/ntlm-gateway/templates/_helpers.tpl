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

{{- /* Not those of the gateway's pods, which the Service selects. */ -}}
{{- define "ntlm-gateway.testLabels" -}}
app.kubernetes.io/name: ntlm-gateway-test
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* By digest, if there is one. */ -}}
{{- define "ntlm-gateway.image" -}}
{{- $repository := required "image.repository: name the image, such as registry.corp.example/ntlm-gateway" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ printf "%s@%s" $repository .Values.image.digest | quote }}
{{- else -}}
{{ printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
{{- end -}}
{{- end -}}

{{- define "ntlm-gateway.imagePullSecrets" -}}
{{- if or .Values.imagePullSecrets .Values.image.pullSecrets }}
imagePullSecrets:
{{- with .Values.imagePullSecrets }}
{{- toYaml . | nindent 2 }}
{{- end }}
{{- range .Values.image.pullSecrets }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "ntlm-gateway.monitoringLabels" -}}
{{ include "ntlm-gateway.labels" . }}
{{- with .Values.monitoring.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The mechanisms of `settings.auth`, separated by commas. */ -}}
{{- define "ntlm-gateway.auth" -}}
{{- $auth := .Values.settings.auth | default list -}}
{{- kindIs "string" $auth | ternary (list $auth) $auth | join "," | nospace -}}
{{- end -}}

{{- /* "true" if any identity may use Kerberos. */ -}}
{{- define "ntlm-gateway.usesKerberos" -}}
{{- $auth := list (include "ntlm-gateway.auth" .) -}}
{{- range .Values.identities }}{{ $auth = append $auth (toJson .auth) }}{{ end -}}
{{- if contains "kerberos" (join "," $auth) }}true{{ end -}}
{{- end -}}

{{- /* "true" if the keytab takes the place of the password, so that none is needed. */ -}}
{{- define "ntlm-gateway.isKeytabEnough" -}}
{{- if and .Values.keytab.existingSecret (or (not .Values.user) (eq (include "ntlm-gateway.auth" .) "kerberos")) }}true{{ end -}}
{{- end -}}

{{- /* The name of the Secret with the password, if there is one. */ -}}
{{- define "ntlm-gateway.passwordSecret" -}}
{{- $password := .Values.password -}}
{{- if $password.existingSecret -}}
{{- $password.existingSecret -}}
{{- else if or $password.value (not (include "ntlm-gateway.isKeytabEnough" .)) -}}
{{- include "ntlm-gateway.name" . -}}
{{- end -}}
{{- end -}}

{{- /* The volume with all secrets. 288 is 0440: readable by the pod's group and nobody else. */ -}}
{{- define "ntlm-gateway.secretVolume" -}}
{{- $names := uniq (compact (list (include "ntlm-gateway.passwordSecret" .) .Values.keytab.existingSecret .Values.tlsFiles.existingSecret)) -}}
{{- if and (eq (len $names) 1) (not .Values.tlsFiles.configMap) -}}
secret: { secretName: {{ first $names }}, defaultMode: 288 }
{{- else -}}
projected:
  defaultMode: 288
  sources:
    {{- range $names }}
    - secret: { name: {{ . }} }
    {{- end }}
    {{- with .Values.tlsFiles.configMap }}
    - configMap: { name: {{ . }} }
    {{- end }}
{{- end -}}
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

{{- /* The ports of `listeners` and those on which identities have clients of their own, as a JSON list. */ -}}
{{- define "ntlm-gateway.furtherPorts" -}}
{{- $addresses := list -}}
{{- range .Values.listeners }}{{ $addresses = append $addresses .address }}{{ end -}}
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
{{- if include "ntlm-gateway.passwordSecret" . }}
password_file = "/run/secrets/ntlm-gateway/password"
previous_password_file = "/run/secrets/ntlm-gateway/previous-password"
{{- end }}
{{- if and .Values.keytab.existingSecret (contains "kerberos" (include "ntlm-gateway.auth" .)) }}
keytab = "/run/secrets/ntlm-gateway/keytab"
{{- end }}
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
{{- with .Values.tls }}

[tls]
{{- include "ntlm-gateway.settings" . }}
{{- end }}
{{- range $table := list "listeners" "upstreams" "identities" "routes" }}
{{- range get $.Values $table }}

[[{{ $table }}]]
{{- include "ntlm-gateway.settings" . }}
{{- end }}
{{- end }}
{{- end -}}
