"""The `lrnb` command."""
