#!/usr/bin/env bash
# Compiles the library that moves the time of day of processes: clock.sh LIBRARY. Installs gcc unless there is one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if ! command -v gcc >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends gcc libc6-dev
fi >&2
gcc -std=gnu17 -O2 -Wall -Wextra -Werror -shared -fPIC -o "$1" "$here/clock.c"
