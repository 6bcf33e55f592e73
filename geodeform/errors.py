"""Errors that users see: each message is one sentence that names the file and says what to do."""


class GeodeformError(Exception):
    """Base of every error that geodeform raises on purpose; the command line prints it plainly."""


class SceneError(GeodeformError):
    """A raster cannot be read, or lacks the bands that the model needs."""


class ModelFileError(GeodeformError):
    """A model file is truncated, of another kind, or written by a newer geodeform."""


class ConfigError(GeodeformError):
    """A setting is unknown, out of range, or contradicts another."""


class DatasetError(GeodeformError):
    """A training dataset's folder does not have the layout that its name promises."""


class OutputError(GeodeformError):
    """An output exists already, has an unknown suffix, or cannot be written."""


class DeviceError(GeodeformError):
    """The requested device is not available."""
