"""What can go wrong with an object store. No message holds a secret, an address or a path."""

from bloom.base.errors import Upstream


class BlobError(Upstream):
    """The object store could not do what was asked of it."""

    code = "blob_error"


class BlobUnavailable(BlobError):
    """The store does not answer, answers with an error, or refuses. Trying again later may be right."""

    code = "blob_unavailable"


class BlobMissing(BlobError):
    """There is no object under this key."""

    code = "blob_missing"


class BlobChanged(BlobError):
    """The object is not the one that the write was meant to replace. Nothing was written."""

    code = "blob_changed"
