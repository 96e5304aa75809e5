"""RFC 9431, the MQTT-TLS profile of ACE, as logic and cryptography: no I/O, no clock, no randomness."""
