"""`python -m llmgine`."""

import sys

from llmgine.cli import main

sys.exit(main())
