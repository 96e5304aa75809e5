"""Tests of `trio_acebroker.transports`."""
