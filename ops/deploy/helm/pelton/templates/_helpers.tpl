{{- define "pelton.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "pelton.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "pelton.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "pelton.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pelton.selector" -}}
app.kubernetes.io/name: {{ include "pelton.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pelton.labels" -}}
{{ include "pelton.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* pelton.image takes a dict of root and image. */ -}}
{{- define "pelton.image" -}}
{{ printf "%s/%s:%s" .root.Values.image.registry .image (default .root.Chart.AppVersion .root.Values.image.tag) | quote }}
{{- end -}}

{{- /* The NATS chart's own name of its services. */ -}}
{{- define "pelton.nats" -}}
{{- if .Values.nats.fullnameOverride -}}
{{- .Values.nats.fullnameOverride -}}
{{- else if contains "nats" .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-nats" .Release.Name -}}
{{- end -}}
{{- end -}}

{{- define "pelton.broker" -}}
{{- if .Values.broker.url -}}
{{- .Values.broker.url -}}
{{- else if .Values.nats.enabled -}}
{{- printf "tls://%s:4222" (include "pelton.nats" .) -}}
{{- else -}}
{{- fail "broker.url is needed when nats.enabled is false" -}}
{{- end -}}
{{- end -}}

{{- define "pelton.monitoring" -}}
{{- if .Values.broker.monitoring -}}
{{- .Values.broker.monitoring -}}
{{- else if .Values.nats.enabled -}}
{{- printf "%s-headless.%s.svc:8222" (include "pelton.nats" .) .Release.Namespace -}}
{{- else -}}
{{- fail "broker.monitoring is needed for autoscaling when nats.enabled is false" -}}
{{- end -}}
{{- end -}}

{{- /* The full name of a model, which its consumers have: names of the catalog may be short, and in any case of letters. */ -}}
{{- define "pelton.model" -}}
{{- $full := dict "smollm2" "smollm2-135m-instruct" "smollm2-135m" "smollm2-135m-instruct" "minilm" "all-minilm-l6-v2" "all-minilm" "all-minilm-l6-v2" -}}
{{- $name := get $full (lower .) | default (lower .) -}}
{{- ternary $name . (has $name (values $full)) -}}
{{- end -}}

{{- /* A model's name as one token of a subject; the schema allows no other characters that are escaped. */ -}}
{{- define "pelton.token" -}}
{{- . | replace "." "%2E" -}}
{{- end -}}

{{- define "pelton.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "pelton.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* pelton.env takes a dict of root and role: how a part reaches the broker. */ -}}
{{- define "pelton.env" -}}
- {name: PELTON_NATS, value: {{ include "pelton.broker" .root | quote }}}
- {name: PELTON_LOG_LEVEL, value: {{ .root.Values.logLevel }}}
- {name: PELTON_LOG_FORMAT, value: json}
- {name: PELTON_CREDS, value: /etc/pelton/{{ .role }}/{{ .role }}.creds}
- {name: PELTON_TLS_CA, value: /etc/pelton/{{ .role }}/ca.pem}
{{- end -}}

{{- /* pelton.mounts and pelton.volumes take a dict of root, role and cache. */ -}}
{{- define "pelton.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .cache }}
- {name: models, mountPath: /var/cache/pelton{{ if .root.Values.models.claim }}, readOnly: true{{ end }}}
{{- end }}
- {name: secrets, mountPath: /etc/pelton/{{ .role }}, readOnly: true}
{{- end -}}

{{- define "pelton.volumes" -}}
- {name: tmp, emptyDir: {sizeLimit: 64Mi}}
{{- if .cache }}
{{- if .root.Values.models.claim }}
- {name: models, persistentVolumeClaim: {claimName: {{ .root.Values.models.claim }}}}
{{- else }}
- {name: models, emptyDir: {sizeLimit: {{ .root.Values.models.size }}}}
{{- end }}
{{- end }}
- {name: secrets, secret: {secretName: {{ get .root.Values.security .role }}, defaultMode: 0440}}
{{- end -}}

{{- define "pelton.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The models of all pools, each once, as JSON. */ -}}
{{- define "pelton.models" -}}
{{- $names := list -}}
{{- range $pool := .Values.workers -}}
{{- $names = append $names (include "pelton.model" $pool.model) -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end -}}
