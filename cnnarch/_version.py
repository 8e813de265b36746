"""The package version, in its own module so submodules need not import all of cnnarch."""

__version__ = "0.1.0"
