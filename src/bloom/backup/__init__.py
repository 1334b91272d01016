"""Backup and restore: one archive of the database, the artifacts in the object store, and what else is asked for.

`archive` is the file's form, `sealing` its encryption, `places` where it lies; `tables` moves the rows; `create` and
`restore` are the two ways.
"""
