"""Speed of the engine, as ratios measured in one run; nothing here is installed or timed in a test."""
