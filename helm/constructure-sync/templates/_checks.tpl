{{/* Combinations that could only lose work or never start are refused here, before anything reaches the cluster. */}}
{{- define "sync.checks" -}}
{{- $values := .Values -}}
{{- if include "sync.several" . -}}
{{- if eq $values.database.type "sqlite" -}}
{{- fail "several instances (replicaCount > 1 or autoscaling.enabled) need database.type=postgresql: only one process may hold an SQLite file" -}}
{{- end -}}
{{- if eq $values.bus.type "local" -}}
{{- fail "several instances (replicaCount > 1 or autoscaling.enabled) need bus.type=redis: the local bus reaches no other instance" -}}
{{- end -}}
{{- else if $values.podDisruptionBudget.enabled -}}
{{- fail "podDisruptionBudget.enabled needs several instances: with one it would hold up every node that is emptied" -}}
{{- end -}}
{{- if and (gt (int ($values.settings.workers | default 1)) 1) (eq $values.bus.type "local") -}}
{{- fail "settings.workers > 1 needs bus.type=redis: the local bus reaches no other process" -}}
{{- end -}}
{{- if and (or (eq $values.database.type "postgresql") (eq $values.bus.type "redis")) (not $values.secret.existingSecret) -}}
{{- fail "database.type=postgresql and bus.type=redis need secret.existingSecret: the name of a Secret that holds the signing key and the URLs" -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas must not exceed autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.host) -}}
{{- fail "ingress.enabled needs ingress.host" -}}
{{- end -}}
{{- if and (eq $values.database.type "sqlite") $values.strategy (ne (dig "type" "" $values.strategy) "Recreate") -}}
{{- fail "strategy must be Recreate with database.type=sqlite: only one process may hold an SQLite file" -}}
{{- end -}}
{{- end -}}
