"""The parts of a family's page, one module per kind of section."""
