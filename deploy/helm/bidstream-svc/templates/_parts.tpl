{{/* Templates that the gateway and the sidecar share, and those of the sidecar. */}}

{{- define "bidstream-svc.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "bidstream-svc.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "bidstream-svc.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bidstream-svc.operatorEnv" -}}
- name: BIDSTREAM_OPERATOR_URL
  value: {{ .Values.operatorUrl | quote }}
- name: BIDSTREAM_API_KEY_FILE
  value: /run/secrets/bidstream-svc/api-key
- name: BIDSTREAM_CLIENT_SECRET_FILE
  value: /run/secrets/bidstream-svc/client-secret
{{- end }}

{{- define "bidstream-svc.adminEnv" -}}
# Probes and scrapes use the pod's address. The admin plane shows no token, no id and no secret.
- name: BIDSTREAM_ADMIN_LISTEN
  value: 0.0.0.0:9464
# With the cache, a container that restarts while the operator is down can still serve.
- name: BIDSTREAM_KEY_CACHE
  value: /var/cache/bidstream-svc/keys
{{- range $name, $value := .Values.settings }}
- name: BIDSTREAM_{{ $name }}
  value: {{ $value | quote }}
{{- end }}
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

{{- define "bidstream-svc.egress" -}}
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
# A NetworkPolicy cannot name a host, so the default allows HTTPS to every public address. Narrow it to the
# operator's addresses, or use a policy by host name if your network plug-in has one.
- to:
    - ipBlock:
        {{- toYaml .Values.networkPolicy.operatorBlock | nindent 8 }}
  ports:
    - port: 443
{{- end }}

{{/* The sidecar: an init container of the bidder's pod, which needs fsGroup: 65532 and the volumes below. */}}
{{- define "bidstream-svc.sidecar" -}}
# A native sidecar (Kubernetes 1.29 or newer): it starts before the bidder's containers and stops after them.
- name: bidstream-svc
  image: {{ include "bidstream-svc.image" . }}
  args: [serve]
  restartPolicy: Always
  env:
    {{- include "bidstream-svc.operatorEnv" . | nindent 4 }}
    - name: BIDSTREAM_LISTEN
      value: unix:/run/bidstream-svc/decrypt.sock
    {{- include "bidstream-svc.adminEnv" . | nindent 4 }}
  ports:
    - name: bidstream-admin
      containerPort: 9464
  # The bidder starts once keys are loaded. There is no readiness probe, because it would take the bidder out of
  # service whenever the sidecar is not ready, and a bidder can bid without ids.
  {{- include "bidstream-svc.probes" . | nindent 2 }}
  # No CPU limit: throttling would delay answers beyond the bidder's timeout.
  resources:
    {{- toYaml .Values.sidecarResources | nindent 4 }}
  securityContext:
    {{- include "bidstream-svc.identity" . | nindent 4 }}
    {{- include "bidstream-svc.securityContext" . | nindent 4 }}
  volumeMounts:
    - name: bidstream-svc-socket
      mountPath: /run/bidstream-svc
    - name: bidstream-svc-credentials
      mountPath: /run/secrets/bidstream-svc
      readOnly: true
    - name: bidstream-svc-cache
      mountPath: /var/cache/bidstream-svc
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
- name: bidstream-svc-credentials
  secret:
    secretName: {{ .Values.secretName }}
    defaultMode: 0440
    items:
      - key: api-key
        path: api-key
      - key: client-secret
        path: client-secret
- name: bidstream-svc-cache
  emptyDir:
    sizeLimit: 64Mi
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
