{{- define "sync.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sync.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sync.labels" -}}
{{ include "sync.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "sync.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "sync.fullname" .) "default") -}}
{{- end -}}

{{- define "sync.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Empty when this chart cannot know where browsers reach the server. */}}
{{- define "sync.publicUrl" -}}
{{- if .Values.publicUrl -}}
{{- .Values.publicUrl -}}
{{- else if .Values.ingress.enabled -}}
{{- printf "%s://%s" (empty .Values.ingress.tlsSecret | ternary "http" "https") .Values.ingress.host -}}
{{- end -}}
{{- end -}}

{{/* Empty or "true": whether there may be more than one instance. */}}
{{- define "sync.several" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) -}}true{{- end -}}
{{- end -}}

{{/* Whole seconds; the settings may be fractions. Missing settings: the server's own defaults. */}}
{{- define "sync.drainSeconds" -}}
{{- .Values.settings.drain_seconds | default 5 | ceil | int -}}
{{- end -}}

{{/* preStop, then drain, then 10 s for open HTTP requests, then the last commits (two attempts at most), and a margin. */}}
{{- define "sync.gracePeriod" -}}
{{- $commit := .Values.settings.database_timeout_seconds | default 10 | ceil | int -}}
{{- add (int .Values.termination.preStopSeconds) (int (include "sync.drainSeconds" .)) 10 (mul 2 $commit) (int .Values.termination.marginSeconds) -}}
{{- end -}}
