"""Keys of GnuPG in a folder of their own, and what they sign."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Why tests that need keys are skipped; None where they are not.
MISSING = next((f"{tool} is not installed" for tool in ("gpg", "gpgv") if shutil.which(tool) is None), None)


class Signer:
    """Keys in a folder of its own, and what they sign."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def gpg(self, *arguments: str, data: bytes = b"") -> bytes:
        command = [
            "gpg",
            "--homedir",
            str(self.home),
            "--batch",
            "--yes",
            "--passphrase",
            "",
            "--pinentry-mode",
            "loopback",
        ]
        done = subprocess.run([*command, *arguments], input=data, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def make(self, name: str, expires: str = "never", at: float | None = None) -> None:
        clock = ["--faked-system-time", f"{int(at)}!"] if at is not None else []
        self.gpg(*clock, "--quick-gen-key", f"{name} <{name}@example.org>", "ed25519", "sign", expires)

    def keyring(self, path: Path, *names: str, armor: bool = False) -> Path:
        path.write_bytes(self.gpg(*(["--armor"] if armor else []), "--export", *(f"{n}@example.org" for n in names)))
        return path

    def sign(self, name: str, data: bytes, *how: str, at: float | None = None) -> bytes:
        clock = ["--faked-system-time", f"{int(at)}!"] if at is not None else []
        return self.gpg(*clock, "--local-user", f"{name}@example.org", *how, data=data)

    def revoke(self, name: str) -> None:
        (found,) = [
            line.split(":")[9]
            for line in self.gpg("--with-colons", "--list-keys", f"{name}@example.org").decode().splitlines()
            if line.startswith("fpr")
        ]
        text = (self.home / "openpgp-revocs.d" / f"{found}.rev").read_text()
        self.gpg("--import", data=text.replace(":-----BEGIN", "-----BEGIN").encode())


@contextmanager
def signer() -> Iterator[Signer]:
    """One with the keys of ada and eve, of old, which has expired, and of lost, which may be revoked."""
    # The path of an agent's socket must be short.
    home = Path(tempfile.mkdtemp(prefix="gpg"))
    home.chmod(0o700)
    try:
        one = Signer(home)
        one.make("ada")
        one.make("eve")
        one.make("old", "seconds=86400", at=time.time() - 90 * 86400)
        one.make("lost")
        yield one
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)
