#!/usr/bin/env bash
# Installs Debian's Chromium unless there is one, and prints where it is.
set -euo pipefail

if ! command -v chromium >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2
    apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends chromium >&2
fi
command -v chromium
