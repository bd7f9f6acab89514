"""What can go wrong without a bug: the errors that tools print without a traceback.

Raise a `ConfigError` or a `DataError`, or one of their kin that a module defines for its own
subject, where a setting or a file turns out to be unusable. Any other exception that ends a tool is
a mistake of the program and keeps its traceback.
"""


class UserError(Exception):
    """Something that the user can put right; the message says what and how."""


class ConfigError(UserError, KeyError, ValueError):
    """A setting that cannot be used: both of the errors that yacs raises for one."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would quote it


class DataError(UserError, ValueError):
    """Data that cannot be used: annotations, pictures, captions, or the files they come in."""


class MissingPackageError(UserError, ImportError):
    """An optional package that this run needs is not installed."""
