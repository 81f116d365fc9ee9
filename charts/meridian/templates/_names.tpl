{{- define "meridian.labels" -}}
app.kubernetes.io/name: meridian-operator
app.kubernetes.io/component: {{ .Values.role }}
app.kubernetes.io/part-of: meridian
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "meridian.selector" -}}
app.kubernetes.io/name: meridian-operator
app.kubernetes.io/component: {{ .Values.role }}
{{- end }}

{{- define "meridian.priorityClass" -}}
{{ .Values.operator.priorityClass.name | default (printf "meridian-operator-%s" .Values.role) }}
{{- end }}

{{- /* A release that is upgraded with --reuse-values does not name it. */}}
{{- define "meridian.approval" -}}
{{ .Values.hub.approval | default "Required" }}
{{- end }}

{{- define "meridian.externalMetrics" -}}
{{ if (.Values.region.externalMetrics | default dict).enabled }}enabled{{ end }}
{{- end }}
