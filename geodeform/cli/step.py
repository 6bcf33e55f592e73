"""A step of a campaign: a command of geodeform that ends when the campaign does.

``python -m geodeform.cli.step train …`` runs ``geodeform train …``. A campaign that is killed
cannot end what it started, and a training that went on would write into a folder that the next
campaign resumes. So on Linux the kernel tells this process when its parent is gone; elsewhere such
a training has to be ended by hand.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from geodeform.cli.main import main

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: str | None) -> None:
    """Ask for SIGTERM when the parent ends.

    Args:
        parent: Its process number; None where nobody waits for this process.

    Raises:
        SystemExit: If the parent is gone already.
    """
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(parent):
        raise SystemExit(f"The campaign {parent} that started this step is gone.")


if __name__ == "__main__":
    end_with_parent(os.environ.get("GEODEFORM_CAMPAIGN"))
    main(prog_name="geodeform")
