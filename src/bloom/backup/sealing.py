"""Encryption of an archive by a passphrase: scrypt makes the key, AES-256-GCM seals piece after piece.

The nonce of a piece is its number and whether it is the last (the STREAM construction of Hoang, Reyhanitabar, Rogaway and
Vizár, 2015): pieces that are changed, moved, repeated or missing at the end are not opened. The salt is new for each archive,
and so is the key: no nonce is used twice with it.
"""

import hashlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bloom.backup.errors import BackupLocked
from bloom.backup.pieces import PIECE_BYTES, marking_last, reblocked

SALT_BYTES = 16
_TAG_BYTES = 16
_SCRYPT = {"n": 2**16, "r": 8, "p": 1}  # 64 MiB; fixed by the version of the archive's form
_NUMBER_BYTES = 11


def new_salt() -> bytes:
    """The salt of one archive."""
    return secrets.token_bytes(SALT_BYTES)


async def sealed(stream: AsyncIterable[bytes], passphrase: str, salt: bytes, head: bytes) -> AsyncGenerator[bytes]:
    """`stream`, encrypted; `head` is authenticated with each piece."""
    cipher = _cipher(passphrase, salt)
    number = 0
    async for piece, last in marking_last(reblocked(stream, PIECE_BYTES)):
        yield cipher.encrypt(_nonce(number, last), piece, head)
        number += 1


async def unsealed(stream: AsyncIterable[bytes], passphrase: str, salt: bytes, head: bytes) -> AsyncGenerator[bytes]:
    """What `sealed` was given. Raises BackupLocked at the first piece that cannot be opened."""
    cipher = _cipher(passphrase, salt)
    number = 0
    async for piece, last in marking_last(reblocked(stream, PIECE_BYTES + _TAG_BYTES)):
        try:
            yield cipher.decrypt(_nonce(number, last), piece, head)
        except InvalidTag:
            raise BackupLocked(
                "The archive cannot be decrypted: BLOOM_BACKUP_PASSPHRASE is not the one that it was made with, or the "
                "archive is damaged."
            ) from None
        number += 1


def _cipher(passphrase: str, salt: bytes) -> AESGCM:
    return AESGCM(hashlib.scrypt(passphrase.encode(), salt=salt, dklen=32, maxmem=2**27, **_SCRYPT))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big") + bytes([last])
