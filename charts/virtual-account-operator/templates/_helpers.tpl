{{- define "vao.name" -}}
virtual-account-operator
{{- end -}}

{{/* A release may be called like the chart, or otherwise. Room is left for suffixes such as -introspection. */}}
{{- define "vao.fullname" -}}
{{- $name := include "vao.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 23 | trimSuffix "-") $name -}}
{{- end -}}
{{- end -}}

{{- define "vao.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "vao.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is required when serviceAccount.create is false: it names an existing ServiceAccount" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The user name of the operator, as admission policies and audit logs have it. */}}
{{- define "vao.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "vao.serviceAccountName" . }}
{{- end -}}

{{/* What never changes between upgrades: selectors cannot. */}}
{{- define "vao.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vao.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "vao.labels" -}}
{{ include "vao.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* A map of labels in which ours win, as selectors and dashboards look for them; never a key twice. */}}
{{- define "vao.labelsWith" -}}
{{- merge (include "vao.labels" .context | fromYaml) (.more | default dict) | toYaml -}}
{{- end -}}

{{/* What no value weakens; values.schema.json refuses another, and here it wins. */}}
{{- define "vao.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "vao.scheme" -}}
{{ empty .Values.tls.secretName | ternary "http" "https" }}
{{- end -}}

{{- define "vao.image" -}}
{{- $repository := printf "%s/%s" .registry .repository | trimPrefix "/" -}}
{{- if .digest -}}
{{- printf "%s@%s" $repository .digest -}}
{{- else -}}
{{- printf "%s:%s" $repository .tag -}}
{{- end -}}
{{- end -}}

{{- define "vao.issuerUrl" -}}
{{- required "issuerUrl is required: the URL under which verifiers reach the operator's public Service, for example https://tokens.example.com; it is the iss of every token" .Values.issuerUrl -}}
{{- end -}}

{{/* Not empty if replicas elect the one that writes. */}}
{{- define "vao.elects" -}}
{{- if ne (toString .Values.settings.leaderElect) "false" -}}
yes
{{- else if gt (int .Values.replicas) 1 -}}
{{- fail "settings.leaderElect: false needs replicas: 1; without election every replica does all the work" -}}
{{- end -}}
{{- end -}}

{{/* The command line of the container, as a YAML list. */}}
{{- define "vao.args" -}}
- run
{{- if .Values.watchNamespaces }}
{{- if not .Values.settings.clusterId }}
{{- fail "settings.clusterId is required with watchNamespaces: the operator cannot read the uid of namespace kube-system then; choose an id that is unique among clusters that share a secret store" }}
{{- end }}
- {{ printf "--watch-namespaces=%s" (join "," .Values.watchNamespaces) | quote }}
{{- end }}
{{- if .Values.tls.secretName }}
- --tls-cert={{ include "vao.tlsDirectory" . }}/tls.crt
- --tls-key={{ include "vao.tlsDirectory" . }}/tls.key
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- $flag := printf "--%s" (kebabcase $name) }}
{{- if kindIs "slice" $value }}
{{- /* An empty list says nothing, as if it were not there. The program refuses a flag without a value. */}}
{{- if $value }}
- {{ printf "%s=%s" $flag (join "," $value) | quote }}
{{- end }}
{{- else if and (kindIs "bool" $value) (ne $name "leaderElect") }}
{{- /* A switch, off unless it is there. leaderElect is on unless it is false. */}}
{{- if $value }}
- {{ $flag }}
{{- end }}
{{- else if not (kindIs "invalid" $value) }}
- {{ printf "%s=%v" $flag $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "vao.tlsDirectory" -}}
/etc/virtual-account-operator/tls
{{- end -}}
