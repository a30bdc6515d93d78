"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence that names the thing and the way out; the command line prints it
    without a traceback.
    """
