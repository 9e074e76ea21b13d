"""Chatting: sending messages."""

from __future__ import annotations

from typing import Any

from gateway.models import MessageTextRequest
from gateway.operations import Call, Operations
from gateway.services import Services
from session_worker.contract import Method

OPERATIONS = Operations("📤 Chatting")


@OPERATIONS.route("POST", "/api/sendText", "ChattingController_sendText", body=MessageTextRequest)
async def send_text(services: Services, call: Call) -> Any:
    """Send a text message."""
    asked: MessageTextRequest = call.body
    return await services.router.call(
        asked.session,
        Method.SEND_TEXT,
        {
            "chatId": asked.chatId,
            "text": asked.text,
            "replyTo": asked.reply_to,
            "mentions": asked.mentions,
            "linkPreview": asked.linkPreview is not False,
        },
    )
