{{/* Templates that the gateway and the sidecar share, and those of the sidecar. */}}

{{- define "bidstream-svc.image" -}}
{{ .Values.image.repository }}:{{ include "bidstream-svc.text" (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{/* A value as text. Helm reads numbers as floating point: 1000000 is 1e+06 except as JSON. */}}
{{- define "bidstream-svc.text" -}}
{{ kindIs "string" . | ternary . (toJson .) }}
{{- end }}

{{- define "bidstream-svc.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "bidstream-svc.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The ports of the operators' URLs, as JSON: that of the scheme if a URL names none. */}}
{{- define "bidstream-svc.operatorPorts" -}}
{{- $ports := list }}
{{- range $path, $operator := include "bidstream-svc.operators" . | fromJson }}
{{- $url := get $.Values.settings (printf "%sOPERATOR_URL" $operator.prefix) | default $operator.operatorUrl | urlParse }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "80" "443" (eq $url.scheme "http")) }}
{{- if or (lt (int $port) 1) (gt (int $port) 65535) }}
{{- fail (printf "%soperatorUrl: %s is not a port" $path $port) }}
{{- end }}
{{- $ports = append $ports (dict "port" (int $port)) }}
{{- end }}
{{- $ports | uniq | toJson }}
{{- end }}

{{/*
The operators as JSON, each by the path of its values: the prefix of its settings, its URL, its Secret, the suffix of
its volume and directory. With `programmes`, those; without, the only one. Values of both forms are refused.
*/}}
{{- define "bidstream-svc.operators" -}}
{{- $operators := dict }}
{{- range $name, $programme := .Values.programmes }}
{{- $own := dict "prefix" (printf "%s_" $name | upper) "suffix" (printf "-%s" $name) "cache" (printf "%s-keys" $name) }}
{{- $_ := set $operators (printf "programmes.%s." $name) (merge $own $programme) }}
{{- end }}
{{- if and $operators (ne .Values.operatorUrl "https://prod.euid.eu") }}
{{- fail "operatorUrl: set together with programmes; use one of the two" }}
{{- end }}
{{- range $name := keys .Values.settings | sortAlpha }}
{{- if and $operators (has $name (list "OPERATOR_URL" "API_KEY_FILE" "CLIENT_SECRET_FILE" "KEY_CACHE")) }}
{{- fail (printf "settings.%s: set together with programmes; give the name a prefix, e.g. UID2_%s" $name $name) }}
{{- end }}
{{- $programme := regexFind "^(UID2|EUID)_" $name | trimSuffix "_" | lower }}
{{- if and $programme (not (hasKey $.Values.programmes $programme)) }}
{{- fail (printf "settings.%s: requires programmes.%s" $name $programme) }}
{{- end }}
{{- end }}
{{- $only := dict "prefix" "" "suffix" "" "cache" "keys" "operatorUrl" .Values.operatorUrl "secretName" .Values.secretName }}
{{- $operators | default (dict "" $only) | toJson }}
{{- end }}

{{/* The list of a root, a name and a value -> a variable. An entry of `settings` replaces the value. */}}
{{- define "bidstream-svc.setting" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $value := hasKey $root.Values.settings $name | ternary (get $root.Values.settings $name) (index . 2) -}}
- name: BIDSTREAM_{{ $name }}
  value: {{ include "bidstream-svc.text" $value | quote }}
{{- end }}

{{/*
The list of a root and the chart's own variables -> these, and the remaining entries of `settings`. Those of the webhook
are for receivers only, which take no others than the flags of `optouts serve`.
*/}}
{{- define "bidstream-svc.env" -}}
{{- $root := index . 0 }}
{{- $own := index . 1 | trim }}
{{- $isReceiver := contains "- name: BIDSTREAM_OPTOUT_LISTEN\n" $own }}
{{- $own }}
{{- range $name, $value := $root.Values.settings }}
{{- $isOfWebhook := regexMatch "^OPTOUT_(LISTEN|PATH|ID_PARAMETER|TIME_PARAMETER)$" $name }}
{{- $applies := ternary (regexMatch "^(OPTOUT_|LOG_|ADMIN_LISTEN$|ALLOWED_HOSTS$|MAX_BUFFERED$|(HANG|IDLE|REQUEST|DRAIN)_TIMEOUT$)" $name) (not $isOfWebhook) $isReceiver }}
{{- if and $applies (not (contains (printf "- name: BIDSTREAM_%s\n" $name) $own)) }}
{{ include "bidstream-svc.setting" (list $root $name $value) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bidstream-svc.adminEnv" -}}
# Probes and scrapes use the pod's address. The admin plane shows no token, no id and no secret.
{{ include "bidstream-svc.setting" (list . "ADMIN_LISTEN" "0.0.0.0:9464") }}
{{- end }}

{{- define "bidstream-svc.commonEnv" -}}
{{- range include "bidstream-svc.operators" . | fromJson }}
{{- if $.Values.relay.url }}
{{ include "bidstream-svc.setting" (list $ (print .prefix "OPERATOR_URL") (include "bidstream-svc.relayUrl" $)) }}
{{ include "bidstream-svc.setting" (list $ (print .prefix "OPERATOR_FALLBACK_URL") .operatorUrl) }}
{{- else }}
{{ include "bidstream-svc.setting" (list $ (print .prefix "OPERATOR_URL") .operatorUrl) }}
{{- end }}
{{- end }}
{{- include "bidstream-svc.keysEnv" . }}
{{- if .Values.relay.caSecretName }}
# In place of the file of public authorities; these are in a directory, too, and stay trusted.
- name: SSL_CERT_FILE
  value: /run/secrets/bidstream-svc-relay-ca/ca.crt
{{- end }}
{{- if .Values.optouts.enabled }}
{{ include "bidstream-svc.optoutsEnv" . }}
{{- end }}
{{- end }}

{{/* Credentials, admin plane and key cache. */}}
{{- define "bidstream-svc.keysEnv" -}}
{{- range include "bidstream-svc.operators" . | fromJson }}
{{ include "bidstream-svc.setting" (list $ (print .prefix "API_KEY_FILE") (printf "/run/secrets/bidstream-svc%s/api-key" .suffix)) }}
{{ include "bidstream-svc.setting" (list $ (print .prefix "CLIENT_SECRET_FILE") (printf "/run/secrets/bidstream-svc%s/client-secret" .suffix)) }}
{{- end }}
{{ include "bidstream-svc.adminEnv" . }}
# With the cache, a container that restarts while the operator is down can still serve.
{{- range include "bidstream-svc.operators" . | fromJson }}
{{ include "bidstream-svc.setting" (list $ (print .prefix "KEY_CACHE") (printf "/var/cache/bidstream-svc/%s" .cache)) }}
{{- end }}
{{- end }}

{{- define "bidstream-svc.gatewayEnv" -}}
{{ include "bidstream-svc.commonEnv" . }}
{{ include "bidstream-svc.setting" (list . "LISTEN" "0.0.0.0:8080") }}
{{ include "bidstream-svc.setting" (list . "AUTH_TOKEN_FILE" "/run/secrets/bidstream-svc/bearer-token") }}
{{- if .Values.tlsSecretName }}
{{ include "bidstream-svc.setting" (list . "TLS_CERT" "/run/secrets/bidstream-svc-tls/tls.crt") }}
{{ include "bidstream-svc.setting" (list . "TLS_KEY" "/run/secrets/bidstream-svc-tls/tls.key") }}
{{- end }}
{{- end }}

{{- define "bidstream-svc.sidecarEnv" -}}
{{ include "bidstream-svc.commonEnv" . }}
{{ include "bidstream-svc.setting" (list . "LISTEN" "unix:/run/bidstream-svc/decrypt.sock") }}
{{- end }}

{{- define "bidstream-svc.probes" -}}
startupProbe:
  httpGet:
    path: /startupz
    port: bidstream-admin
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 120
livenessProbe:
  httpGet:
    path: /livez
    port: bidstream-admin
  periodSeconds: 10
  timeoutSeconds: 2
  failureThreshold: 3
{{- end }}

{{- define "bidstream-svc.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "bidstream-svc.identity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "bidstream-svc.scrapes" -}}
- from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.networkPolicy.monitoringNamespace }}
  ports:
    - port: bidstream-admin
{{- end }}

{{- define "bidstream-svc.dnsEgress" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
      podSelector:
        matchLabels:
          k8s-app: kube-dns
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end }}

{{- define "bidstream-svc.egress" -}}
{{ include "bidstream-svc.operatorEgress" . }}
{{- if .Values.relay.url }}
- to:
    - podSelector:
        matchLabels:
          bidstream-svc/relay: "true"
  ports:
    - port: 8080
{{- end }}
{{- end }}

{{- define "bidstream-svc.operatorEgress" -}}
{{ include "bidstream-svc.dnsEgress" . }}
# A NetworkPolicy cannot name a host, so the default allows the port of operatorUrl at every public address. Narrow it
# to the operators' addresses, or use a policy by host name if your network plug-in has one.
- to:
    - ipBlock:
        {{- toYaml .Values.networkPolicy.operatorBlock | nindent 8 }}
  ports:
    {{- include "bidstream-svc.operatorPorts" . | fromJsonArray | toYaml | nindent 4 }}
{{- end }}

{{/* The sidecar: an init container of the bidder's pod, which needs fsGroup: 65532 and the volumes below. */}}
{{- define "bidstream-svc.sidecar" -}}
# A native sidecar (Kubernetes 1.29 or newer): it starts before the bidder's containers and stops after them.
- name: bidstream-svc
  image: {{ include "bidstream-svc.image" . }}
  args: [serve]
  restartPolicy: Always
  env:
    {{- include "bidstream-svc.env" (list . (include "bidstream-svc.sidecarEnv" .)) | nindent 4 }}
  ports:
    - name: bidstream-admin
      containerPort: 9464
  # The bidder starts once keys are loaded. There is no readiness probe, because it would take the bidder out of
  # service whenever the sidecar is not ready, and a bidder can bid without ids.
  {{- include "bidstream-svc.probes" . | nindent 2 }}
  # No CPU limit: throttling would delay answers beyond the bidder's timeout.
  resources:
    {{- include "bidstream-svc.resources" (list . .Values.sidecarResources) | nindent 4 }}
  securityContext:
    {{- include "bidstream-svc.identity" . | nindent 4 }}
    {{- include "bidstream-svc.securityContext" . | nindent 4 }}
  volumeMounts:
    - name: bidstream-svc-socket
      mountPath: /run/bidstream-svc
    {{- range include "bidstream-svc.operators" . | fromJson }}
    - name: bidstream-svc-credentials{{ .suffix }}
      mountPath: /run/secrets/bidstream-svc{{ .suffix }}
      readOnly: true
    {{- end }}
    - name: bidstream-svc-cache
      mountPath: /var/cache/bidstream-svc
    {{- if .Values.optouts.enabled }}
    {{- include "bidstream-svc.optoutsMounts" . | nindent 4 }}
    {{- end }}
    {{- if .Values.relay.caSecretName }}
    {{- include "bidstream-svc.relayMounts" . | nindent 4 }}
    {{- end }}
    # Hides the pod's service-account token from the sidecar.
    - name: bidstream-svc-no-token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end }}

{{/* The volumes of the sidecar; the bidder's container mounts bidstream-svc-socket. */}}
{{- define "bidstream-svc.sidecarVolumes" -}}
- name: bidstream-svc-socket
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- range include "bidstream-svc.operators" . | fromJson }}
- name: bidstream-svc-credentials{{ .suffix }}
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items:
      - key: api-key
        path: api-key
      - key: client-secret
        path: client-secret
{{- end }}
- name: bidstream-svc-cache
  emptyDir:
    sizeLimit: 64Mi
{{- if .Values.optouts.enabled }}
{{ include "bidstream-svc.optoutsVolumes" . }}
{{- end }}
{{- if .Values.relay.caSecretName }}
{{ include "bidstream-svc.relayVolumes" . }}
{{- end }}
- name: bidstream-svc-no-token
  emptyDir:
    sizeLimit: 1Mi
{{- end }}

{{- define "bidstream-svc.sidecarNetworkPolicy" -}}
# In: scrapes. Out: DNS and the operator. A policy applies to the whole pod, so first allow what the bidder itself needs
# by a policy of your own; policies add up.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: bidstream-svc-sidecar
spec:
  podSelector:
    matchLabels:
      bidstream-svc/sidecar: "true"
  policyTypes: [Ingress, Egress]
  ingress:
    {{- include "bidstream-svc.scrapes" . | nindent 4 }}
  egress:
    {{- include "bidstream-svc.egress" . | nindent 4 }}
{{- end }}
