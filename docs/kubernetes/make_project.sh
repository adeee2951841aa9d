#!/usr/bin/env bash
# Makes a copy of the committed project that MLflow can run in containers. MLflow takes one
# environment in an MLproject, either conda_env or docker_env, so the copy has the latter.
set -euo pipefail

if [[ $# -ne 2 ]]; then
  echo "usage: $0 FOLDER IMAGE   (a new folder; the image made from docs/kubernetes/Dockerfile)" >&2
  exit 2
fi
folder=$1 image=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [[ -e $folder ]]; then
  echo "$folder is there already: name a new folder" >&2
  exit 1
fi
mkdir -p "$folder"
git -C "$root" archive HEAD | tar -x -C "$folder"
sed -i.orig \
  -e "s|^conda_env: .*|docker_env: {image: \"$image\"}|" \
  -e 's|command: "python -m |command: "xling-run -m |' \
  "$folder/MLproject"
rm "$folder/MLproject.orig"
grep -q '^docker_env: ' "$folder/MLproject"
