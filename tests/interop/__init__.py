"""Foreign MQTT clients against this broker."""
