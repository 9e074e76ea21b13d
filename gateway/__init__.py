"""The gateway: WAHA's HTTP API in front of all sessions, and their webhooks. Stateless; run as many as you like."""
