{{/* Labels of every object. Takes a list: root, component ("" for what belongs to none). */}}
{{- define "twinrun.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/part-of: twinrun
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{ include "twinrun.selector" (index . 1) }}
{{- end -}}

{{/* What selects the pods of a component; never changes. */}}
{{- define "twinrun.selector" -}}
app.kubernetes.io/name: twinrun
{{- if . }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Takes a list: root, the values of an image. */}}
{{- define "twinrun.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The user name of a service account of the chart. Takes a list: root, name. */}}
{{- define "twinrun.username" -}}
system:serviceaccount:{{ (index . 0).Release.Namespace }}:{{ index . 1 }}
{{- end -}}

{{/* Of every pod but the agent's. */}}
{{- define "twinrun.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "twinrun.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Replicas on nodes of their own. Takes a component. */}}
{{- define "twinrun.apart" -}}
requiredDuringSchedulingIgnoredDuringExecution:
  - topologyKey: kubernetes.io/hostname
    labelSelector:
      matchLabels:
        {{- include "twinrun.selector" . | nindent 8 }}
{{- end -}}

{{- define "twinrun.ownEtcd" -}}
{{- if and .Values.quorum.install (eq .Values.quorum.store "etcd") (not .Values.quorum.etcd.endpoints) -}}yes{{- end -}}
{{- end -}}

{{/* FIRST-LAST. Takes the agent's values. */}}
{{- define "twinrun.enginePorts" -}}
{{- $first := int .enginePorts.first -}}
{{- $last := int .enginePorts.last -}}
{{- if gt $first $last -}}
{{- fail (printf "agent.enginePorts: first is %d and last is %d; first must not be greater" $first $last) -}}
{{- end -}}
{{- range $name, $port := dict "heartbeatPort" .heartbeatPort "metricsPort" .metricsPort -}}
{{- if and (ge (int $port) $first) (le (int $port) $last) -}}
{{- fail (printf "agent.%s is %d, which is one of agent.enginePorts; choose another port, or a range without it" $name (int $port)) -}}
{{- end -}}
{{- end -}}
{{ $first }}-{{ $last }}
{{- end -}}

{{/* Asks for a file that the process touches while it is well (src/quorum/health-files.ts). Takes the file's name. */}}
{{- define "twinrun.probe" -}}
exec: { command: [sh, -c, 'test -n "$(find /run/twinrun/{{ . }} -mmin -1)"'] }
{{- end -}}
