"""The `bloom` command. Modules here import the rest of the package lazily, so that `bloom --help` is instant."""
