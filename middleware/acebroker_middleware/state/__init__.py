"""What stages keep: messages, subscriptions, sessions, retained messages, limits; and the ports to what is outside."""
