#!/usr/bin/env bash
# Builds the three images from the repository's root. BASE is any Debian-based image with Python 3.11 or newer.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=${CONTAINER_TOOL:-$(command -v podman || command -v docker || true)}
[ -n "$tool" ] || { echo "images: podman or docker is needed" >&2; exit 1; }
tag=${TAG:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
for part in operator worker gateway; do
    echo "images: whatsapp-$part:$tag"
    # shellcheck disable=SC2086  # BUILD_OPTIONS is a list of words
    "$tool" ${TOOL_OPTIONS:-} build ${BUILD_OPTIONS:-} ${BASE:+--build-arg BASE="$BASE"} \
        -f "images/$part.Containerfile" -t "${REGISTRY:+$REGISTRY/}whatsapp-$part:$tag" .
done
