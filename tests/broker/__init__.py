"""Tests of `trio_acebroker`."""
