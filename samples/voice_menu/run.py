"""`make run`: the menu, an engine and a telephone on this machine, and one call between them that can be watched.

python -m samples.voice_menu.run            then goes on serving, for your own softphone
python -m samples.voice_menu.run --once     ends after the call: 0 if it was completed and heard, else 1
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / ".switchhook"


def main() -> None:
    # Ctrl-C waits until the demonstration asks for it: among the imports, or in a process that is just being
    # started and inherits this, it would be a traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    options = parse()
    print("Switchhook: a voice menu, an engine that answers, and a telephone that calls it.", flush=True)
    from samples.voice_menu.demo import Options, run  # half a second of imports, after the first words

    sys.exit(run(Options(options.data, options.once, options.voice_url)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m samples.voice_menu.run", description="The sample voice menu."
    )
    parser.add_argument("--once", action="store_true", help="end after the demonstration call")
    parser.add_argument("--data", default=str(DATA), metavar="DIR", help="data folder (.switchhook)")
    parser.add_argument(
        "--voice-url",
        default="",
        metavar="URL",
        help="demonstrate the menu served here instead, as you edit it",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
