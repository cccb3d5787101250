"""Signatures of checksum files, checked by gpgv with the keys of one keyring only.

gpgv's exit status does not show an expired or revoked key, so the result is read from its status lines (GnuPG,
doc/DETAILS). gpgv gets the bytes that are used afterwards, not a path whose file could be replaced meanwhile. Of a file
that holds its own signature, only the text that gpgv says was signed is used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from msgspec import Struct

from bulkspider.errors import UsageError
from bulkspider.text import visible

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60
_STATUS = "[GNUPG:] "
_ARMOR = b"-----BEGIN PGP PUBLIC KEY BLOCK"

# Status words of a signature that is not good, and what they mean.
_REFUSED = {
    "BADSIG": "it is not the file that was signed",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key has expired",
    "REVKEYSIG": "the key was revoked",
}
# Status words that say that the input is not one signed text.
_ODD = ("UNEXPECTED", "BADARMOR", "DECRYPTION_FAILED", "FAILURE")


class Signed(Struct, frozen=True):
    """How a checksum file is signed. signature: path or URL of a detached signature, None when the file holds its
    own. keyring: absolute path."""

    signature: str | None
    keyring: str

    @classmethod
    def by(cls, signature: str | None, keyring: str) -> Signed:
        """Raises UsageError when there is no such keyring, or no gpgv."""
        if shutil.which("gpgv") is None:
            raise UsageError("a signature is checked by gpgv, which is not installed; install gpgv or gnupg")
        # A name without a slash would be looked for in GnuPG's own folder.
        keyring = os.path.abspath(keyring)
        try:
            with open(keyring, "rb") as file:
                beginning = file.read(len(_ARMOR))
        except OSError as error:
            raise UsageError(f"{keyring}: no such keyring ({error.strerror}); correct its path") from error
        if beginning == _ARMOR:
            name = os.path.splitext(keyring)[0]
            raise UsageError(f"{keyring}: an armored keyring; convert it: gpg --dearmor < {keyring} > {name}.gpg")
        return cls(signature, keyring)

    def check(self, data: bytes, signature: bytes | None, where: str) -> bytes:
        """The text that was signed. signature: the detached one. where: how messages name the file. Raises UsageError
        when it is not signed by a key of the keyring."""
        with tempfile.TemporaryDirectory(prefix="bulkspider.") as empty:
            files = ["--output", "-", "-"]
            if signature is not None:
                path = os.path.join(empty, "signature")
                with open(path, "wb") as file:
                    file.write(signature)
                files = [path, "-"]
            status, output = _gpgv(["--homedir", empty, "--keyring", self.keyring, *files], data)
        signer = _signer(status, detached=signature is not None, where=where, keyring=self.keyring)
        logger.info("%s: good signature of %s", where, signer)
        return data if signature is not None else output


def _gpgv(arguments: Sequence[str], data: bytes) -> tuple[list[list[str]], bytes]:
    """Runs gpgv. Returns its status lines, split into words, and its output. Raises UsageError."""
    reading, writing = os.pipe()
    with open(reading, "rb") as status:
        try:
            done = subprocess.run(
                ["gpgv", "--status-fd", str(writing), *arguments],
                input=data,
                capture_output=True,
                pass_fds=[writing],
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise UsageError(f"gpgv did not work ({error})") from error
        finally:
            with contextlib.suppress(OSError):
                os.close(writing)
        lines = status.read().decode("utf-8", "replace").splitlines()
    return [line.removeprefix(_STATUS).split() for line in lines if line.startswith(_STATUS)], done.stdout


def _signer(status: Sequence[Sequence[str]], *, detached: bool, where: str, keyring: str) -> str:
    """Who has signed: name and fingerprint. Raises UsageError."""
    words = [line[0] for line in status if line]
    for word, why in _REFUSED.items():
        if word in words:
            raise UsageError(f"{where}: its signature is not good: {why} ({word}); nothing was begun")
    signatures: list[dict[str, Sequence[str]]] = [{}]
    for line in filter(None, status):
        if line[0] == "NEWSIG":
            signatures.append({})
        signatures[-1][line[0]] = line
    good = [found for found in signatures if "GOODSIG" in found and "VALIDSIG" in found]
    odd = any(word in words for word in _ODD) or (detached and "PLAINTEXT" in words)
    if not detached and "ERRSIG" in words:
        # Such a file may hold several signed texts, and gpgv writes all of them, even one signed with an unknown key.
        good = []
    if good and not odd:
        name = visible(" ".join(good[0]["GOODSIG"][2:]))
        return f"{name} ({good[0]['VALIDSIG'][1]})"
    missing = [line[1] for line in status if len(line) > 1 and line[0] == "NO_PUBKEY"]
    if missing and not odd:
        raise UsageError(f"{where}: it is signed by the key {visible(missing[0])}, which is not in {keyring}")
    raise UsageError(f"{where}: it has no signature that gpgv understands; nothing was begun")
