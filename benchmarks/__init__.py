"""What the engine costs and gains, measured side by side: `python -m benchmarks`."""
