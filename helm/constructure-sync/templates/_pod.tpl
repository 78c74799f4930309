{{/* What the server and the migration have in common: nobody, nothing writable, no way to become more. */}}
{{- define "sync.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "sync.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "sync.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* One variable out of the Secret. Arguments: root, variable, key. */}}
{{- define "sync.secretVariable" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.secret.existingSecret }}
      key: {{ .key }}
{{- end -}}

{{- define "sync.databaseVariable" -}}
{{- if eq .Values.database.type "postgresql" -}}
{{- include "sync.secretVariable" (dict "root" . "variable" "CONSTRUCTURE_DATABASE_URL" "key" .Values.secret.keys.databaseUrl) -}}
{{- end -}}
{{- end -}}

{{- define "sync.secretVariables" -}}
{{- if .Values.secret.existingSecret }}
{{ include "sync.secretVariable" (dict "root" . "variable" "CONSTRUCTURE_SECRET_KEY" "key" .Values.secret.keys.secretKey) }}
{{- end }}
{{- with include "sync.databaseVariable" . }}
{{ . }}
{{- end }}
{{- if eq .Values.bus.type "redis" }}
{{ include "sync.secretVariable" (dict "root" . "variable" "CONSTRUCTURE_BUS_URL" "key" .Values.secret.keys.busUrl) }}
{{- end }}
{{- end -}}

{{/* A mapping of the settings that are no secret, every value a string. */}}
{{- define "sync.settings" -}}
{{- with include "sync.publicUrl" . }}
CONSTRUCTURE_PUBLIC_URL: {{ . | quote }}
{{- end }}
{{- /* A copy of this deployment, data and all, that shares its Redis must not hear it. */}}
{{- if and (eq .Values.bus.type "redis") (not .Values.settings.bus_prefix) }}
CONSTRUCTURE_BUS_PREFIX: {{ printf "%s.%s" .Release.Namespace (include "sync.fullname" .) | trunc 64 | quote }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- /* Helm reads numbers as floats; without this a large one would become 3.3554432e+07. */}}
{{- $whole := and (kindIs "float64" $value) (eq $value (floor $value)) }}
CONSTRUCTURE_{{ upper $name }}: {{ $whole | ternary (printf "%.0f" (float64 (kindIs "float64" $value | ternary $value 0.0))) (toString $value) | quote }}
{{- end }}
{{- end -}}
