"""`python -m lrnb` is the `lrnb` command."""

from lrnb.cli import main

raise SystemExit(main())
