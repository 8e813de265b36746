"""Run the command line as `python -m cnnarch`."""

import sys

from cnnarch.cli import main

sys.exit(main())
