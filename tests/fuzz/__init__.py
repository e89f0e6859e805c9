"""The readers under coverage-guided fuzzing: `python -m tests.fuzz`, and its corpus, which the gate replays."""
