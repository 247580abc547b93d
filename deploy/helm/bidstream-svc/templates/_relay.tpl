{{/* The relay. */}}

{{- define "bidstream-svc.relay" -}}
{{ .Release.Name }}-relay
{{- end }}

{{- define "bidstream-svc.relaySelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-relay
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "bidstream-svc.relayLabels" -}}
{{ merge (include "bidstream-svc.relaySelector" . | fromYaml) (include "bidstream-svc.labels" . | fromYaml) | toYaml }}
{{- end }}

{{- define "bidstream-svc.relayEnv" -}}
{{- range include "bidstream-svc.operators" . | fromJson }}
{{ include "bidstream-svc.setting" (list $ (print .prefix "OPERATOR_URL") .operatorUrl) }}
{{- end }}
{{- include "bidstream-svc.keysEnv" . }}
{{ include "bidstream-svc.setting" (list . "LISTEN" "0.0.0.0:8080") }}
{{- if .Values.relay.tlsSecretName }}
{{ include "bidstream-svc.setting" (list . "TLS_CERT" "/run/secrets/bidstream-svc-tls/tls.crt") }}
{{ include "bidstream-svc.setting" (list . "TLS_KEY" "/run/secrets/bidstream-svc-tls/tls.key") }}
{{- end }}
{{- end }}
