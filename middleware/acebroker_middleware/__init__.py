"""The stages between octets and sockets: they decide, batch by batch, and do no I/O."""
