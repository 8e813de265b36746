"""The contract that every network follows: structure, options, building, saving and freezing."""
