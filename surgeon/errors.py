"""The one exception that users see."""


class SurgeonError(Exception):
    """Something is wrong with the input or the machine, and nothing was written.

    The message is one line: what, where, and what to do about it. The command line prints it
    and exits with code 2.
    """
