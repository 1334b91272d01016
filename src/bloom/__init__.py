"""BLOOM Runtime: several machines that run the Claude CLI, made one machine.

The way of one task through the packages is told in docs/architecture.md.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("bloom-runtime")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
