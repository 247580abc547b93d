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

{{/* What tells sidecars and the gateway where the relay is, and what it can be trusted by. */}}
{{- define "bidstream-svc.relayUrl" -}}
{{- $url := urlParse .Values.relay.url }}
{{- $isTls := eq $url.scheme "https" }}
{{- if not (or $isTls (hasKey .Values.settings "ALLOW_INSECURE_OPERATOR")) }}
{{- fail "relay.url: http needs the setting ALLOW_INSECURE_OPERATOR" }}
{{- end }}
{{- $isOwn := and .Values.relay.enabled (hasPrefix (include "bidstream-svc.relay" .) $url.host) }}
{{- if and $isOwn (ne $isTls (ne .Values.relay.tlsSecretName "")) }}
{{- fail (printf "relay.url: %s, but relay.tlsSecretName %s" $url.scheme (ternary "is empty" "is set" $isTls)) }}
{{- end }}
{{- .Values.relay.url }}
{{- end }}

{{- define "bidstream-svc.relayMounts" -}}
- name: bidstream-svc-relay-ca
  mountPath: /run/secrets/bidstream-svc-relay-ca
  readOnly: true
{{- end }}

{{- define "bidstream-svc.relayVolumes" -}}
- name: bidstream-svc-relay-ca
  secret:
    secretName: {{ .Values.relay.caSecretName }}
    defaultMode: 0440
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
