"""`python -m cnnarch`, where the command is not on the path."""

import sys

from cnnarch.cli import main

sys.exit(main())
