"""The `cnnarch` command."""
