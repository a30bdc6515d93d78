"""`python -m coopgen_jax.cli` is `coopgen`."""

import sys

from coopgen_jax.cli import main

sys.exit(main())
