{{/* Name that all objects begin with. */}}
{{- define "whatsapp.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "whatsapp.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that select the pods of a part. Takes a list: the root, and operator, gateway or redis. */}}
{{- define "whatsapp.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of the worker pods, which the operator gives them. */}}
{{- define "whatsapp.workerSelector" -}}
app.kubernetes.io/name: whatsapp-worker
app.kubernetes.io/managed-by: whatsapp-operator
{{- end }}

{{/*
The metadata of an object. Takes a dict: root, name, and optionally component, labels, annotations, namespace
(empty string for objects of the cluster).
*/}}
{{- define "whatsapp.metadata" -}}
{{- $root := .root -}}
name: {{ .name }}
{{- if not (hasKey . "namespace") }}
namespace: {{ $root.Release.Namespace }}
{{- else if .namespace }}
namespace: {{ .namespace }}
{{- end }}
labels:
  {{- include "whatsapp.labels" $root | nindent 2 }}
  {{- with .component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The image of a part. Takes a list: the root, and operator, gateway or worker. */}}
{{- define "whatsapp.image" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $values := index $root.Values (ternary "workers" $part (eq $part "worker")) -}}
{{- if $values.image -}}
{{ $values.image }}
{{- else -}}
{{ with $root.Values.images.registry }}{{ trimSuffix "/" . }}/{{ end }}whatsapp-{{ $part }}:{{ default $root.Chart.AppVersion $root.Values.images.tag }}
{{- end -}}
{{- end }}

{{/* The service account of a part. Takes a list: the root, and operator, gateway or worker. */}}
{{- define "whatsapp.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $values := index $root.Values (ternary "workers" $part (eq $part "worker")) -}}
{{- default (printf "%s-%s" (include "whatsapp.fullname" $root) $part) $values.serviceAccount.name }}
{{- end }}

{{/* Namespaces that the operator looks after, as a JSON list; empty: all. Its own is always among those named. */}}
{{- define "whatsapp.watchNamespaces" -}}
{{- if .Values.watchNamespaces -}}
{{- concat (list .Release.Namespace) .Values.watchNamespaces | uniq | sortAlpha | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end }}

{{/* Namespaces that get what worker pods need, as a JSON list. */}}
{{- define "whatsapp.workerNamespaces" -}}
{{- concat (list .Release.Namespace) .Values.watchNamespaces | uniq | sortAlpha | toJson -}}
{{- end }}

{{- define "whatsapp.redisUrl" -}}
{{- default (printf "redis://%s-redis.%s.svc:6379/0" (include "whatsapp.fullname" .) .Release.Namespace) .Values.redis.external.url }}
{{- end }}

{{- define "whatsapp.credentialsSecret" -}}
{{- default (printf "%s-credentials" (include "whatsapp.fullname" .)) .Values.credentials.existingSecret }}
{{- end }}

{{- define "whatsapp.apiKeySecret" -}}
{{- default (printf "%s-api-key" (include "whatsapp.fullname" .)) .Values.gateway.apiKey.existingSecret }}
{{- end }}

{{- define "whatsapp.profilesClaim" -}}
{{- default (printf "%s-profiles" (include "whatsapp.fullname" .)) .Values.defaultPool.profiles.existingClaim }}
{{- end }}

{{/* An environment variable from the shared Secret. Takes a list: the root, and the key. */}}
{{- define "whatsapp.credential" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ include "whatsapp.credentialsSecret" (index . 0) }}
      key: {{ index . 1 }}
      {{- if and (index . 0).Values.redis.external.url (eq (index . 1) "REDIS_PASSWORD") }}
      optional: true # a Redis of one's own may ask for none
      {{- end }}
{{- end }}

{{/* What the Pod Security Standard "restricted" asks of a pod. Takes the number of its user and group. */}}
{{- define "whatsapp.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What it asks of a container, and a root file system that nobody writes to. */}}
{{- define "whatsapp.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where the pods of a part run. Takes a list: the root, and operator or gateway. */}}
{{- define "whatsapp.scheduling" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $values := index $root.Values $part -}}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $selector := dict "labelSelector" (dict "matchLabels" (fromYaml (include "whatsapp.selector" (list $root $part)))) }}
  - {{- toYaml (merge (dict) . $selector) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Metadata of the pods of a part. Takes a list: the root, and operator, gateway or redis. */}}
{{- define "whatsapp.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
labels:
  {{- include "whatsapp.selector" . | nindent 2 }}
  {{- with merge (dict) (default (dict) $values.podLabels) $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := default (dict) $values.podAnnotations }}
{{- if eq (index . 1) "redis" }}
{{- /* Redis reads its configuration at the start only. */}}
{{- $annotations = merge (dict) $annotations (dict "checksum/config" (include "whatsapp.redisConfig" $root | sha256sum)) }}
{{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where Redis is, as an egress rule. */}}
{{- define "whatsapp.egressToRedis" -}}
{{- if .Values.redis.external.url }}
- ports:
    {{- range .Values.networkPolicy.redisPorts }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- else }}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Release.Namespace }}
      podSelector:
        matchLabels:
          {{- include "whatsapp.selector" (list . "redis") | nindent 10 }}
  ports:
    - {protocol: TCP, port: 6379}
{{- end }}
{{- end }}

{{/* Name resolution, as an egress rule. */}}
{{- define "whatsapp.egressToDns" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{/* The API server, as an egress rule: it is no pod, and its address differs from its Service's. */}}
{{- define "whatsapp.egressToApiServer" -}}
- to:
    {{- range .Values.networkPolicy.apiServerCIDRs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{/* Who may read metrics, as an ingress rule. */}}
{{- define "whatsapp.ingressFromScrapers" -}}
{{- with .Values.networkPolicy.scrapers }}
- from:
    {{- toYaml . | nindent 4 }}
  ports:
    - {protocol: TCP, port: 9090}
{{- end }}
{{- end }}
