"""The version, where files of the package can import it without importing the whole package."""

__version__ = "0.1.0"
