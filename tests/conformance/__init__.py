"""One test per numbered statement of MQTT, found by its marker."""
