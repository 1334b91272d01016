"""Object stores behind one small interface: any S3, a directory of this host, or memory.

`interface` says what a store does, `open` makes one from the settings; `s3`, `local` are the stores and `transfer` is
what they share.
"""
