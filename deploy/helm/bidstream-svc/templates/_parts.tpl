{{/* What the Deployment and the sidecar have in common; and the sidecar, for charts of bidders. */}}

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
- name: BIDSTREAM_ADMIN_LISTEN
  value: 0.0.0.0:9464
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

{{/* An init container for the bidder's pod, which needs fsGroup: 65532 and the volumes below. */}}
{{- define "bidstream-svc.sidecar" -}}
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
  {{- include "bidstream-svc.probes" . | nindent 2 }}
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
    - name: bidstream-svc-no-token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end }}

{{/* Volumes for the sidecar; the bidder's container mounts bidstream-svc-socket. */}}
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
