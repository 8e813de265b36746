"""One script a question; `python -m benchmarks` asks them all."""
