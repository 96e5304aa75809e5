"""Tests of `acebroker_codec`."""
