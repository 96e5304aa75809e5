"""Octets thrown at the doors through which they come in; see README.md beside this file."""
