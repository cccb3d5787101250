"""The embedded origin and its content, for demo, tests and benchmarks; no entry of a list travels through here."""
