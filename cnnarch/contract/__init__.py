"""The contract of every network: structure, options, building, saving and freezing."""
