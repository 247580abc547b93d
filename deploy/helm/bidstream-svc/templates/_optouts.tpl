{{/* Templates of the store of opt-outs, which the gateway, the sidecar and the receivers have. */}}

{{- define "bidstream-svc.receivers" -}}
{{ .Release.Name }}-optouts
{{- end }}

{{/* Not those of the gateway, whose Service would select the receivers too. */}}
{{- define "bidstream-svc.receiverSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-optouts
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "bidstream-svc.receiverLabels" -}}
{{ include "bidstream-svc.receiverSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "bidstream-svc.stream" -}}
{{ get .Values.settings "OPTOUT_STREAM" | default .Values.optouts.stream | required "optouts.stream: required, e.g. rediss://redis.example.com:6379/0" }}
{{- end }}

{{- define "bidstream-svc.snapshotUrl" -}}
{{- $here := "" }}
{{- if .Values.optouts.receivers.enabled }}
{{- $here = printf "http://%s.%s:8081/snapshot" (include "bidstream-svc.receivers" .) .Release.Namespace }}
{{- end }}
{{- .Values.optouts.snapshotUrl | default $here | required "optouts.snapshotUrl: required where optouts.receivers.enabled is false" }}
{{- end }}

{{- define "bidstream-svc.optoutsEnv" -}}
# A directory in the volume: the volume itself may have lost+found in it, and its mode is not ours.
{{ include "bidstream-svc.setting" (list . "OPTOUT_STORE" "/var/lib/bidstream-svc/optouts") }}
{{ include "bidstream-svc.setting" (list . "OPTOUT_STREAM" (include "bidstream-svc.stream" .)) }}
{{- if .Values.optouts.streamHasPassword }}
{{ include "bidstream-svc.setting" (list . "OPTOUT_STREAM_PASSWORD_FILE" "/run/secrets/bidstream-svc-optouts/stream-password") }}
{{- end }}
{{ include "bidstream-svc.setting" (list . "OPTOUT_SNAPSHOT_URL" (include "bidstream-svc.snapshotUrl" .)) }}
{{ include "bidstream-svc.setting" (list . "OPTOUT_AUTH_TOKEN_FILE" "/run/secrets/bidstream-svc-optouts/bearer-token") }}
{{- end }}

{{- define "bidstream-svc.receiverEnv" -}}
{{ include "bidstream-svc.optoutsEnv" . }}
{{ include "bidstream-svc.setting" (list . "OPTOUT_LISTEN" "0.0.0.0:8081") }}
{{ include "bidstream-svc.adminEnv" . }}
{{- end }}

{{- define "bidstream-svc.optoutsMounts" -}}
- name: bidstream-svc-optouts
  mountPath: /var/lib/bidstream-svc
- name: bidstream-svc-optouts-credentials
  mountPath: /run/secrets/bidstream-svc-optouts
  readOnly: true
{{- end }}

{{- define "bidstream-svc.optoutsVolumes" -}}
- name: bidstream-svc-optouts
  {{- toYaml (.Values.optouts.volume | default (dict "emptyDir" (dict "sizeLimit" "8Gi"))) | nindent 2 }}
{{ include "bidstream-svc.optoutsCredentials" . }}
{{- end }}

{{- define "bidstream-svc.optoutsCredentials" -}}
- name: bidstream-svc-optouts-credentials
  secret:
    secretName: {{ .Values.optouts.secretName }}
    defaultMode: 0440
    items:
      - key: bearer-token
        path: bearer-token
      {{- if .Values.optouts.streamHasPassword }}
      - key: stream-password
        path: stream-password
      {{- end }}
{{- end }}

{{/*
The list of a root and the resources of a container -> these, with those of a store. A store in an emptyDir counts as
ephemeral storage: the size limit of the volume takes the place of the container's.
*/}}
{{- define "bidstream-svc.resources" -}}
{{- $root := index . 0 }}
{{- $resources := index . 1 | deepCopy }}
{{- if $root.Values.optouts.enabled }}
{{- $resources = mergeOverwrite $resources (deepCopy $root.Values.optouts.resources) }}
{{- if or (not $root.Values.optouts.volume) (hasKey $root.Values.optouts.volume "emptyDir") }}
{{- $_ := unset ($resources.limits | default dict) "ephemeral-storage" }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* To the receivers of this namespace, for snapshots, and to the stream. */}}
{{- define "bidstream-svc.optoutsEgress" -}}
{{- $url := include "bidstream-svc.stream" . | urlParse }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default "6379" }}
{{- if or (lt (int $port) 1) (gt (int $port) 65535) }}
{{- fail (printf "optouts.stream: %s is not a port" $port) }}
{{- end -}}
- to:
    - podSelector:
        matchLabels:
          bidstream-svc/optout-receiver: "true"
  ports:
    - port: optouts
- to:
    {{- toYaml .Values.networkPolicy.streamPeers | nindent 4 }}
  ports:
    - port: {{ int $port }}
{{- end }}

{{- define "bidstream-svc.optoutsNetworkPolicy" -}}
# In addition to the policy of the gateway or the sidecar: where a store takes snapshots, and the stream.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .Release.Name }}-optout-stores
  labels:
    {{- include "bidstream-svc.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      bidstream-svc/optouts: "true"
  policyTypes: [Egress]
  egress:
    {{- include "bidstream-svc.optoutsEgress" . | nindent 4 }}
{{- end }}
