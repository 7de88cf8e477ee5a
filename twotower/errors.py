"""The errors that a caller can fix.

    TwoTowerError
    |-- DataError            events, items or schema that would train or serve wrong results (also a ValueError)
    |-- ArtefactError        a bundle or a release that must not be used
    |   |-- IntegrityError       a file is missing, has another size or another hash than its manifest says
    |   |-- FormatError          written by another format version
    |   `-- ReleaseMismatch      parts that were not made for each other
    |-- StoreError           a release store without the requested release, or one that cannot be written
    `-- EnvironmentProblem   a port in use, a directory that cannot be written, a package that is not installed

Every message names the thing and says what to do. `twotower` prints it without a traceback and exits with 2.
"""


class TwoTowerError(Exception):
    """The base of all these errors."""


class DataError(TwoTowerError, ValueError):
    """The caller's events, items or schema cannot be used as they are."""


class ArtefactError(TwoTowerError):
    """A bundle or release that must not be used."""


class IntegrityError(ArtefactError):
    """A file differs from what its manifest says."""


class FormatError(ArtefactError):
    """An artefact of another format version."""


class ReleaseMismatch(ArtefactError):
    """Embedder, contextualizer and index were not made for each other."""


class StoreError(TwoTowerError):
    """The release store does not have the requested release, or cannot be written."""


class EnvironmentProblem(TwoTowerError):
    """The machine lacks what the command needs."""
