"""Errors for people: each says what was wrong, where, and what to do."""


class LongtailError(Exception):
    """Anything that the library tells a user in words; the command line prints it without traceback.

    Attributes:
        exit_status: Exit status of the command line: 2 for the user's mistake, 1 for a failure.
    """

    exit_status = 2


class ConfigError(LongtailError, ValueError):
    """A recipe, an override or an argument is wrong. Lists every mistake at once."""


class DataError(LongtailError, ValueError):
    """Images, labels or lists are missing, damaged or contradict each other."""


class ProtocolError(LongtailError):
    """A split was about to be used for something that it must not be used for."""


class CheckpointError(LongtailError):
    """A checkpoint cannot be written, is damaged, or belongs to another model."""


class TrainingError(LongtailError):
    """A training stopped by itself, for example at a loss that is not finite."""

    exit_status = 1


class OutOfTimeError(LongtailError):
    """A training stopped at a checkpoint because its time was over; it can be resumed."""

    exit_status = 0


class OutputError(LongtailError):
    """A model predicts numbers that are not finite, which mean nothing."""

    exit_status = 1
