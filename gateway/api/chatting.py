"""Chatting: sending messages, and what is done to them; events, and media."""

from __future__ import annotations

import base64
import re
from typing import Any

from aiohttp import web

from gateway import calls
from gateway.errors import NoFileError, NotFoundError
from gateway.keys import Scope
from gateway.models import (
    Base64File,
    ChatRequest,
    CheckNumberQuery,
    EventMessageRequest,
    MessageContactVcardRequest,
    MessageFileRequest,
    MessageForwardRequest,
    MessageImageRequest,
    MessageLinkCustomPreviewRequest,
    MessageLinkPreviewRequest,
    MessageLocationRequest,
    MessagePollRequest,
    MessageReactionRequest,
    MessageReplyRequest,
    MessagesQueryDeprecated,
    MessageStarRequest,
    MessageStickerRequest,
    MessageTextRequest,
    MessageVideoRequest,
    MessageVoiceRequest,
    NewMessageIDResponse,
    Result,
    SendListRequest,
    SendSeenRequest,
    SendTextQuery,
    TypingResult,
    WAMessage,
    WANumberExistResult,
)
from gateway.operations import Call, Operations
from gateway.services import Services
from session_worker.contract import Method

OPERATIONS = Operations("📤 Chatting")
EVENTS = Operations("📅 Events")
MEDIA = Operations("🖼️ Media")

_page = OPERATIONS.page
_page("POST", "/api/sendText", "ChattingController_sendText", "Send a text message", Method.SEND_TEXT,
      body=MessageTextRequest, result=WAMessage)  # fmt: skip


@OPERATIONS.route(
    "GET", "/api/sendText", "ChattingController_sendTextGet",
    query=SendTextQuery, result=WAMessage, scope=Scope.SEND, deprecated=True, calls=Method.SEND_TEXT,
)  # fmt: skip
async def send_text_get(services: Services, call: Call) -> Any:
    """Send a text message."""
    asked: SendTextQuery = call.query
    return await calls.ask(services, call, Method.SEND_TEXT, {"chatId": asked.phone, "text": asked.text})


_page("POST", "/api/sendImage", "ChattingController_sendImage", "Send an image", Method.SEND_FILE,
      body=MessageImageRequest, result=WAMessage, fixed={"kind": "image"})  # fmt: skip
_page("POST", "/api/sendFile", "ChattingController_sendFile", "Send a file", Method.SEND_FILE,
      body=MessageFileRequest, result=WAMessage, fixed={"kind": "document"})  # fmt: skip
_page("POST", "/api/sendVoice", "ChattingController_sendVoice", "Send a voice message", Method.SEND_FILE,
      body=MessageVoiceRequest, result=WAMessage, fixed={"kind": "voice"})  # fmt: skip
_page("POST", "/api/sendVideo", "ChattingController_sendVideo", "Send a video", Method.SEND_FILE,
      body=MessageVideoRequest, result=WAMessage, fixed={"kind": "video"})  # fmt: skip
_page("POST", "/api/sendSticker", "ChattingController_sendSticker", "Send a sticker", Method.SEND_FILE,
      body=MessageStickerRequest, result=WAMessage, fixed={"kind": "sticker"})  # fmt: skip


@OPERATIONS.route(
    "POST", "/api/send/link-custom-preview", "ChattingController_sendLinkCustomPreview",
    body=MessageLinkCustomPreviewRequest, result=WAMessage, scope=Scope.SEND, calls=Method.SEND_TEXT,
)  # fmt: skip
async def send_link_custom_preview(services: Services, call: Call) -> Any:
    """Send a text message with a custom link preview."""
    params = call.params()
    image = params["preview"].pop("image", None)
    if image:
        params["preview"]["thumbnail"] = (await services.fetcher.load(image))["data"]
    return await calls.ask(services, call, Method.SEND_TEXT, params)


OPERATIONS.absent("POST", "/api/sendButtons", "ChattingController_sendButtons", "Send buttons (interactive message)",
                  "WhatsApp no longer shows the buttons of ordinary accounts", deprecated=True,
                  scope=Scope.SEND)  # fmt: skip
_page("POST", "/api/sendList", "ChattingController_sendList", "Send a list message (interactive)", Method.SEND_LIST,
      body=SendListRequest, result=WAMessage)  # fmt: skip
_page("POST", "/api/forwardMessage", "ChattingController_forwardMessage", "Forward a message", Method.FORWARD,
      body=MessageForwardRequest, result=WAMessage)  # fmt: skip
_page("POST", "/api/sendSeen", "ChattingController_sendSeen", "Mark a chat as read", Method.SEND_SEEN,
      body=SendSeenRequest, result=Result, scope=Scope.SEND)  # fmt: skip
_page("POST", "/api/startTyping", "ChattingController_startTyping", "Show that the account is typing",
      Method.SET_PRESENCE, body=ChatRequest, result=TypingResult, fixed={"presence": "typing"},
      scope=Scope.SEND)  # fmt: skip
_page("POST", "/api/stopTyping", "ChattingController_stopTyping", "Show that the account has stopped typing",
      Method.SET_PRESENCE, body=ChatRequest, result=TypingResult, fixed={"presence": "paused"},
      scope=Scope.SEND)  # fmt: skip
_page("PUT", "/api/reaction", "ChattingController_setReaction", "React to a message with an emoji",
      Method.SET_REACTION, body=MessageReactionRequest, result=Result, scope=Scope.SEND)  # fmt: skip
_page("PUT", "/api/star", "ChattingController_setStar", "Star or unstar a message", Method.SET_STAR,
      body=MessageStarRequest, result=Result, scope=Scope.SEND)  # fmt: skip
_page("POST", "/api/sendPoll", "ChattingController_sendPoll", "Send a poll with options", Method.SEND_POLL,
      body=MessagePollRequest, result=WAMessage)  # fmt: skip
OPERATIONS.absent("POST", "/api/sendPollVote", "ChattingController_sendPollVote", "Vote in a poll",
                  "wa-js reads votes but has no way to cast one", scope=Scope.SEND)  # fmt: skip
_page("POST", "/api/sendLocation", "ChattingController_sendLocation", "Send a location", Method.SEND_LOCATION,
      body=MessageLocationRequest, result=WAMessage)  # fmt: skip
_page("POST", "/api/sendContactVcard", "ChattingController_sendContactVcard", "Send contacts", Method.SEND_CONTACTS,
      body=MessageContactVcardRequest, result=WAMessage)  # fmt: skip
OPERATIONS.absent("POST", "/api/send/buttons/reply", "ChattingController_sendButtonsReply", "Reply on a button message",
                  "wa-js names the button by its place, WAHA by its id", scope=Scope.SEND)  # fmt: skip
_page("GET", "/api/messages", "ChattingController_getMessages", "Get messages in a chat", Method.GET_MESSAGES,
      query=MessagesQueryDeprecated, result=list[WAMessage], deprecated=True)  # fmt: skip
_page("GET", "/api/checkNumberStatus", "ChattingController_DEPRECATED_checkNumberStatus", "Check number status",
      Method.CHECK_EXISTS, query=CheckNumberQuery, result=WANumberExistResult, deprecated=True)  # fmt: skip
_page("POST", "/api/reply", "ChattingController_reply", "Reply to a message with a text", Method.SEND_TEXT,
      body=MessageReplyRequest, result=WAMessage, deprecated=True)  # fmt: skip


@OPERATIONS.route(
    "POST", "/api/sendLinkPreview", "ChattingController_sendLinkPreview_DEPRECATED",
    body=MessageLinkPreviewRequest, result=WAMessage, scope=Scope.SEND, deprecated=True, calls=Method.SEND_TEXT,
)  # fmt: skip
async def send_link_preview(services: Services, call: Call) -> Any:
    """Send a link with its preview."""
    params = call.params()
    params["text"] = f"{params.pop('title')}\n{params.pop('url')}"
    return await calls.ask(services, call, Method.SEND_TEXT, params)


_page("GET", "/api/{session}/new-message-id", "ChattingController_getNewMessageId", "Generate a message id",
      Method.NEW_MESSAGE_ID, result=NewMessageIDResponse)  # fmt: skip

EVENTS.page("POST", "/api/{session}/events", "EventsController_sendEvent", "Send an event message", Method.SEND_EVENT,
            body=EventMessageRequest, result=WAMessage)  # fmt: skip


# --- Media

_MIMETYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.+-]+)*", re.ASCII)
"""What may be said in a header of what the sender of a file says about it."""


@MEDIA.route(
    "GET", "/api/files/{session}/{file}", "MediaController_getFile",
    result=Base64File, media_types=("application/octet-stream",), calls=Method.DOWNLOAD,
)  # fmt: skip
async def get_file(services: Services, call: Call) -> web.Response | Base64File:
    """Get the file of a message, by the address that the message names."""
    message_id = call.path["file"].rpartition(".")[0] or call.path["file"]
    try:
        found = await services.router.call(call.session, Method.DOWNLOAD, {"messageId": message_id})
    except NotFoundError as error:
        raise NoFileError from error
    if call.request.headers.get("Accept") == "application/json":
        return Base64File(mimetype=found["mimetype"], data=found["data"])
    content = base64.b64decode(found["data"])
    headers = {
        # What somebody has sent must not run in the gateway's origin.
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Disposition": "attachment",
        "Cache-Control": "private, max-age=3600",
    }
    kind = found["mimetype"] if _MIMETYPE.fullmatch(found["mimetype"]) else "application/octet-stream"
    return web.Response(body=content, headers={"Content-Type": kind, **headers})


_NO_FFMPEG = "the gateway has no converter (ffmpeg) in its image"
MEDIA.absent("POST", "/api/{session}/media/convert/voice", "MediaController_convertVoice",
             "Convert voice to WhatsApp format (opus)", _NO_FFMPEG)  # fmt: skip
MEDIA.absent("POST", "/api/{session}/media/convert/video", "MediaController_convertVideo",
             "Convert video to WhatsApp format (mp4)", _NO_FFMPEG)  # fmt: skip
