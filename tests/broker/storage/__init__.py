"""The store port: its contract, and a store that waits."""
