"""Gives processes of users without a name or a home, as containers start them, both."""

import os
import stat
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Sets `USER` and `HOME` where the system knows neither: torch and Ray end with a traceback without them.

    The home is then a folder of this user's alone below the temporary folder.

    Raises:
        OSError: If somebody else owns that folder.
    """
    try:
        import pwd
    except ImportError:  # Windows always knows them
        return
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:
        user = None
    if user is None and not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["USER"] = f"user-{os.getuid()}"
    if not os.environ.get("HOME"):
        os.environ["HOME"] = user.pw_dir if user is not None else str(_temporary_home())


def _temporary_home() -> Path:
    home = Path(tempfile.gettempdir()) / f"home-of-user-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    status = home.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(1, "not a folder of this user's alone; set HOME", str(home))
    return home
