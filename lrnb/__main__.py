"""`python -m lrnb` is the `lrnb` command."""

from lrnb.cli.main import main

raise SystemExit(main())
