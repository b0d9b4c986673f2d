"""python -m unclip_core"""

import signal
import sys

from unclip_core.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: no half-written file stays
    sys.exit(main())
