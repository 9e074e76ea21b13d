"""The operator: places WhatsApp sessions on worker pods, and keeps the custom resources' status true."""
