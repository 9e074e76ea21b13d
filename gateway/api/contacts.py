"""Contacts."""

from __future__ import annotations

from typing import Any

from gateway.models import CheckExistsQuery
from gateway.operations import Call, Operations
from gateway.services import Services
from session_worker.contract import Method

OPERATIONS = Operations("👤 Contacts")


@OPERATIONS.route("GET", "/api/contacts/check-exists", "ContactsController_checkExists", query=CheckExistsQuery)
async def check_exists(services: Services, call: Call) -> Any:
    """Check phone number is registered in WhatsApp."""
    return await services.router.call(call.query.session, Method.CHECK_EXISTS, {"phone": call.query.phone})
