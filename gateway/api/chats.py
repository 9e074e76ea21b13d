"""Chats and the messages in them; calls."""

from __future__ import annotations

from typing import Any

from gateway import calls
from gateway.keys import Scope
from gateway.models import (
    ChatInfo,
    ChatPath,
    ChatPictureResponse,
    ChatsQuery,
    ChatSummary,
    EditMessageRequest,
    MessagePath,
    MessageQuery,
    MessagesQuery,
    OverviewBodyRequest,
    OverviewQuery,
    PinMessageRequest,
    ReadChatMessagesResponse,
    ReadChatQuery,
    RefreshQuery,
    RejectCallRequest,
    Result,
    WAMessage,
)
from gateway.operations import Call, Operations
from gateway.services import Services
from session_worker.contract import Method

OPERATIONS = Operations("💬 Chats")
CALLS = Operations("📞 Calls")

_CHAT = "/api/{session}/chats/{chatId}"
_MESSAGE = f"{_CHAT}/messages/{{messageId}}"
_page = OPERATIONS.page

_page("GET", "/api/{session}/chats", "ChatsController_getChats", "Get chats", Method.GET_CHATS,
      query=ChatsQuery, result=list[ChatInfo])  # fmt: skip
_page("GET", "/api/{session}/chats/overview", "ChatsController_getChatsOverview",
      "Get chats overview: id, name, picture and last message", Method.GET_OVERVIEW,
      query=OverviewQuery, result=list[ChatSummary])  # fmt: skip


@OPERATIONS.route(
    "POST", "/api/{session}/chats/overview", "ChatsController_postChatsOverview",
    body=OverviewBodyRequest, result=list[ChatSummary], scope=Scope.READ, calls=Method.GET_OVERVIEW,
)  # fmt: skip
async def post_overview(services: Services, call: Call) -> Any:
    """Get chats overview for some chats."""
    asked: OverviewBodyRequest = call.body
    params = asked.pagination.model_dump(exclude_none=True)
    if asked.filter is not None and asked.filter.ids:
        params["ids"] = asked.filter.ids
    return await calls.ask(services, call, Method.GET_OVERVIEW, params)


_page("DELETE", _CHAT, "ChatsController_deleteChat", "Delete the chat", Method.ACT_ON_CHAT,
      where=ChatPath, result=Result, fixed={"action": "delete"}, scope=Scope.DELETE)  # fmt: skip
_page("GET", f"{_CHAT}/picture", "ChatsController_getChatPicture", "Get the chat's picture", Method.GET_PICTURE,
      where=ChatPath, query=RefreshQuery, result=ChatPictureResponse)  # fmt: skip
_page("GET", f"{_CHAT}/messages", "ChatsController_getChatMessages", "Get messages in the chat", Method.GET_MESSAGES,
      where=ChatPath, query=MessagesQuery, result=list[WAMessage])  # fmt: skip
_page("DELETE", f"{_CHAT}/messages", "ChatsController_clearMessages", "Clear all messages from the chat",
      Method.ACT_ON_CHAT, where=ChatPath, result=Result, fixed={"action": "clear"}, scope=Scope.DELETE)  # fmt: skip
_page("POST", f"{_CHAT}/messages/read", "ChatsController_readChatMessages", "Read unread messages in the chat",
      Method.READ_CHAT, where=ChatPath, query=ReadChatQuery, result=ReadChatMessagesResponse,
      scope=Scope.SEND)  # fmt: skip
_page("GET", _MESSAGE, "ChatsController_getChatMessage", "Get a message by its id", Method.GET_MESSAGE,
      where=MessagePath, query=MessageQuery, result=WAMessage)  # fmt: skip
_page("DELETE", _MESSAGE, "ChatsController_deleteMessage", "Delete a message from the chat", Method.DELETE_MESSAGE,
      where=MessagePath, result=Result, scope=Scope.SEND)  # fmt: skip
_page("PUT", _MESSAGE, "ChatsController_editMessage", "Edit a message in the chat", Method.EDIT_MESSAGE,
      where=MessagePath, body=EditMessageRequest, result=WAMessage, scope=Scope.SEND)  # fmt: skip
_page("POST", f"{_MESSAGE}/pin", "ChatsController_pinMessage", "Pin a message in the chat", Method.PIN_MESSAGE,
      where=MessagePath, body=PinMessageRequest, result=Result, fixed={"pin": True}, scope=Scope.SEND)  # fmt: skip
_page("POST", f"{_MESSAGE}/unpin", "ChatsController_unpinMessage", "Unpin a message in the chat", Method.PIN_MESSAGE,
      where=MessagePath, result=Result, fixed={"pin": False}, scope=Scope.SEND)  # fmt: skip
for _action in ("archive", "unarchive", "unread"):
    _page("POST", f"{_CHAT}/{_action}", f"ChatsController_{_action}Chat", f"{_action.capitalize()} the chat",
          Method.ACT_ON_CHAT, where=ChatPath, result=Result, fixed={"action": _action})  # fmt: skip

CALLS.page("POST", "/api/{session}/calls/reject", "CallsController_rejectCall", "Reject an incoming call",
           Method.REJECT_CALL, body=RejectCallRequest, result=Result, scope=Scope.SEND)  # fmt: skip
