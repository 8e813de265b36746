"""What every network keeps: its structure, how it is built, saved, frozen and checked."""
