"""Certificates of one run as files, for processes on other machines."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Security

from pipeline.run.cluster._extras import require
from pipeline.settings.profiles import ClusterProfile, Ssh

__all__ = ["certificate_directory", "shared_certificates"]


def certificate_directory() -> Path:
    """Where other machines read certificates and keys: a place that they share with this one."""
    directory = Path.home() / ".hessian-pipeline"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


@contextmanager
def shared_certificates(profile: ClusterProfile) -> Iterator[dict[str, object]]:
    """Dask's settings of a run whose processes are started by ssh, and encrypt; none for others.

    These settings are all that Dask takes along, as part of a command that others can list: so the
    key itself is in a file, and gone when the run is.

    Args:
        profile: Which workers.

    Raises:
        ConfigError: If the package that makes certificates is not installed.
    """
    if not (isinstance(profile, Ssh) and profile.encrypt):
        yield {}
        return
    require("cryptography")
    made = Security.temporary()
    with tempfile.TemporaryDirectory(dir=certificate_directory()) as directory:
        cert, key = Path(directory) / "cert.pem", Path(directory) / "key.pem"
        cert.write_text(str(made.tls_ca_file))
        key.touch(mode=0o600)
        key.write_text(str(made.tls_worker_key))
        roles = ("client", "scheduler", "worker")
        yield {
            "distributed.comm.require-encryption": True,
            "distributed.comm.tls.ca-file": str(cert),
            **{f"distributed.comm.tls.{role}.cert": str(cert) for role in roles},
            **{f"distributed.comm.tls.{role}.key": str(key) for role in roles},
        }
