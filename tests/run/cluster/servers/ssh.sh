#!/usr/bin/env bash
# An ssh server on loopback that lets its own user in by a key of its own: ssh.sh DIRECTORY PORT.
# It stays in the foreground. Everything is in that directory.
set -euo pipefail
directory=$1 port=$2

if [ ! -x /usr/sbin/sshd ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2
    # Debian starts a server on all interfaces when it installs one, unless this refuses.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    apt-get install -y -qq --no-install-recommends openssh-server >&2
    rm /usr/sbin/policy-rc.d
fi
mkdir -p /run/sshd
ssh-keygen -q -t ed25519 -N "" -f "$directory/host"
ssh-keygen -q -t ed25519 -N "" -f "$directory/client"
# Which kernels OpenBLAS takes decides how sums round; a login alone would not know what was chosen.
blas=$(env | grep '^OPENBLAS_' | tr '\n' ' ' || true)
exec /usr/sbin/sshd -D -e -p "$port" -f /dev/null -h "$directory/host" ${blas:+-o "SetEnv=$blas"} \
    -o ListenAddress=127.0.0.1 -o PidFile=none -o StrictModes=no -o UsePAM=no \
    -o PasswordAuthentication=no -o "AuthorizedKeysFile=$directory/client.pub"
