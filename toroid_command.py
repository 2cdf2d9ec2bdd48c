"""The command ``toroid`` from its first moment: its packages load for seconds.

It stands beside the package because importing anything of the package loads them.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line; an interrupt while the packages load ends it without a word."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # not where interrupts are ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from toroid.__main__ import main as command

    signal.signal(signal.SIGINT, usual)
    command()
