"""python -m unclip_core"""

import sys

from unclip_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
