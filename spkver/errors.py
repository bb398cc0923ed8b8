"""The one exception that people see."""


class SpkverError(Exception):
    """A user's mistake or a file that cannot be used, told in one line.

    The message names the file, line, key or utterance, says what was found and what to do.
    The command line prints it without a traceback.
    """
