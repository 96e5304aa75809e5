"""RFC 9431 as logic and cryptography: keys, tokens, scopes, proofs, handshakes."""
