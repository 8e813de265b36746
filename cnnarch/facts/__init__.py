"""Facts about the networks: builders by name, fact sheets and model cards.

These modules import the standard library only.
"""
