"""Facts about the networks: builders by name, fact sheets and model cards.

These modules import only the standard library.
"""
