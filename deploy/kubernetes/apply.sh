#!/bin/sh
# Applies an overlay after looking for what would leave its pods waiting for ever: deploy/kubernetes/apply.sh cpu|gpu
# Says in a sentence what is missing, and exits with 1 before anything is changed.
set -eu
overlay=$(dirname "$0")/overlays/${1:-}
[ -n "${1:-}" ] && [ -f "$overlay/kustomization.yaml" ] || {
  echo "give an overlay: one of $(ls "$(dirname "$0")/overlays" | tr '\n' ' ')" >&2
  exit 2
}
fail() {
  echo "$1" >&2
  exit 1
}
manifests=$(kubectl kustomize "$overlay") || fail "$overlay cannot be built: see above"
classes=$(kubectl get storageclass --output 'jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.annotations.storageclass\.kubernetes\.io/is-default-class}{"\n"}{end}') ||
  fail "the cluster does not answer: kubectl get storageclass fails, see above"
wanted=$(printf '%s\n' "$manifests" | sed -n 's/^ *storageClassName: *//p' | sort -u)
for class in $wanted; do
  printf '%s\n' "$classes" | grep -q "^$class " ||
    fail "the cluster has no storage class $class, which $overlay names: name one of these: $(printf '%s\n' "$classes" | cut -d' ' -f1 | tr '\n' ' ')"
done
[ -n "$wanted" ] || printf '%s\n' "$classes" | grep -q ' true$' ||
  fail "the cluster has no default storage class: set storageClassName of the claims in $overlay, or make one the default"
printf '%s\n' "$manifests" | kubectl apply -f - --dry-run=client >/dev/null || fail "kubectl refuses the manifests: see above"
for secret in "twotower keys.toml and history" "nightly key"; do
  kubectl --namespace twotower get secret "${secret%% *}" >/dev/null 2>&1 ||
    fail "the namespace twotower has no secret ${secret%% *} with ${secret#* }: docs/operations.md says how to make it"
done
printf '%s\n' "$manifests" | kubectl apply -f -
