"""A stand-in for WhatsApp Web and its network, on which the real page API runs unchanged. For demo and tests only."""

from sandbox.whatsapp.phone import Phone, Sandbox
from sandbox.whatsapp.server import WhatsAppServer
from sandbox.whatsapp.settings import Settings

__all__ = ["Phone", "Sandbox", "Settings", "WhatsAppServer"]
