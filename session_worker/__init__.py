"""The session worker: one headless Chromium per WhatsApp account, and the contract that all parts share."""
