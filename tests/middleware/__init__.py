"""Tests of `acebroker_middleware`."""
