#!/bin/sh
# Whether Prometheus accepts its configuration and the rules: deploy/prometheus/check.sh [FOLDER]
# Says in a sentence what it refuses, and exits with 1; with 2 where promtool is not installed.
set -eu
folder=${1:-$(dirname "$0")}
command -v promtool >/dev/null || {
  echo "promtool is not installed: it comes with Prometheus (Debian: apt-get install prometheus)" >&2
  exit 2
}
for file in "$folder"/rules/*.yml; do
  promtool check rules "$file" >/dev/null 2>&1 || {
    why=$(promtool check rules "$file" 2>&1 | grep -v -e SUCCESS -e FAILED -e '^Checking' -e '^ *$' | head -n 1) || true
    echo "Prometheus would refuse $file: $why" >&2
    exit 1
  }
done
promtool check config --syntax-only "$folder/prometheus.yml" >/dev/null 2>&1 || {
  why=$(promtool check config --syntax-only "$folder/prometheus.yml" 2>&1 | grep -v -e SUCCESS -e '^Checking' -e '^ *$' | head -n 1) || true
  echo "Prometheus would refuse $folder/prometheus.yml: $why" >&2
  exit 1
}
echo "Prometheus accepts the configuration and the rules in $folder"
