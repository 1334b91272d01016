"""Revisions of the schema `bloom`, oldest first."""
