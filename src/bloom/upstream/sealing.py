"""Keeps secrets in the database so that the database alone does not give them away.

AES-256-GCM with a key derived (scrypt) from `BLOOM_SECRET_KEY`, or from a random file in the data directory that is made on
first use. What a secret is for is authenticated with it: moved to another row or origin it cannot be opened.
"""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bloom.base.errors import Unavailable

KEY_FILE = "secret.key"
_SALT = b"bloom: secrets in the database"
_NONCE_BYTES = 12  # of GCM (NIST SP 800-38D, section 8.2.1)


class Sealer:
    """Seals and opens texts. Both may read a file and derive a key (about 50 ms, once): call them in a thread."""

    def __init__(self, data_dir: Path, secret: str | None) -> None:
        self._file = data_dir / KEY_FILE
        self._secret = None if secret is None else secret.encode()
        self._derived: tuple[bytes, AESGCM] | None = None

    def seal(self, text: str, purpose: str) -> bytes:
        """`text`, sealed for `purpose`. Raises Unavailable (`secret_key_unavailable`) when no key file can be made."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher(self._own()).encrypt(nonce, text.encode(), purpose.encode())

    def derive(self, purpose: str) -> bytes:
        """32 bytes of the secret for `purpose`, which tell nothing of others. Raises Unavailable as `seal` does."""
        return hmac.digest(_derived(self._own()), purpose.encode(), "sha256")

    def unseal(self, sealed: bytes, purpose: str) -> str | None:
        """What was sealed for `purpose`; None when it was sealed with another key or for something else."""
        nonce, content = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        with suppress(OSError, InvalidTag, ValueError):
            if secret := self._secret or self._read():
                return self._cipher(secret).decrypt(nonce, content, purpose.encode()).decode()
        return None

    def _cipher(self, secret: bytes) -> AESGCM:
        if self._derived is None or self._derived[0] != secret:
            self._derived = (secret, AESGCM(_derived(secret)))
        return self._derived[1]

    def _own(self) -> bytes:
        """The secret, made where there is none yet."""
        try:
            return self._secret or self._read() or self._make()
        except (OSError, ValueError):
            raise Unavailable(
                "The secret can be stored nowhere: the data directory cannot be used. Set BLOOM_DATA_DIR to one that can, "
                "or BLOOM_SECRET_KEY.",
                code="secret_key_unavailable",
            ) from None

    def _read(self) -> bytes:
        """The content of the key file; empty when there is none."""
        try:
            if self._file.stat().st_mode & 0o077:
                with suppress(OSError):  # one that was mounted for us to read
                    self._file.chmod(0o600)
            return self._file.read_bytes().strip()
        except FileNotFoundError:
            return b""

    def _make(self) -> bytes:
        """A new key file, mode 600; whoever comes first makes it, whole, and the others take that one."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self._file.with_name(f".{KEY_FILE}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            with suppress(FileExistsError):
                self._file.hardlink_to(unfinished)
        finally:
            unfinished.unlink()
        if not (secret := self._read()):
            raise ValueError("the key file is empty")
        return secret


@lru_cache(maxsize=4)
def _derived(secret: bytes) -> bytes:
    return hashlib.scrypt(secret, salt=_SALT, n=2**14, r=8, p=1, dklen=32)
