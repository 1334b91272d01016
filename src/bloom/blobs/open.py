"""Opens the store that the settings name."""

from bloom.base.settings import ServerSettings
from bloom.blobs.interface import BlobStore


def open_blob_store(settings: ServerSettings) -> BlobStore | None:
    """The store, or None."""
    return None
