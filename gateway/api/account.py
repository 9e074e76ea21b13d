"""The account itself: its profile, presence, stories, labels and channels."""

from __future__ import annotations

from typing import Any

from gateway import calls
from gateway.errors import UnprocessableError
from gateway.keys import Scope
from gateway.models import (
    Channel,
    ChannelListResult,
    ChannelPath,
    ChannelSearchByText,
    ChannelsQuery,
    ChatInfo,
    ChatPath,
    CreateChannelRequest,
    DeleteStatusRequest,
    ImageStatus,
    Label,
    LabelBody,
    LabelPath,
    MyProfile,
    NewMessageIDResponse,
    ProfileNameRequest,
    ProfilePictureRequest,
    ProfileStatusRequest,
    Result,
    SetLabelsRequest,
    TextStatus,
    VideoStatus,
    VoiceStatus,
    WAHAChatPresences,
    WAHASessionPresence,
    WAMessage,
)
from gateway.operations import Call, Operations
from gateway.services import Services
from session_worker.contract import Method

PROFILE = Operations("🆔 Profile")
PRESENCE = Operations("✅ Presence")
STATUS = Operations("🟢 Status")
LABELS = Operations("🏷️ Labels")
CHANNELS = Operations("📢 Channels")

# --- Profile

_PROFILE = "/api/{session}/profile"
PROFILE.page("GET", _PROFILE, "ProfileController_getMyProfile", "Get my profile", Method.GET_PROFILE,
             result=MyProfile)  # fmt: skip
PROFILE.page("PUT", f"{_PROFILE}/name", "ProfileController_setProfileName", "Set my profile name", Method.SET_PROFILE,
             body=ProfileNameRequest, result=Result)  # fmt: skip
PROFILE.page("PUT", f"{_PROFILE}/status", "ProfileController_setProfileStatus", "Set profile status (About)",
             Method.SET_PROFILE, body=ProfileStatusRequest, result=Result)  # fmt: skip
PROFILE.page("PUT", f"{_PROFILE}/picture", "ProfileController_setProfilePicture", "Set profile picture",
             Method.SET_PROFILE, body=ProfilePictureRequest, result=Result)  # fmt: skip
PROFILE.page("DELETE", f"{_PROFILE}/picture", "ProfileController_deleteProfilePicture", "Delete profile picture",
             Method.SET_PROFILE, result=Result, fixed={"picture": "remove"})  # fmt: skip

# --- Presence

_PRESENCE = "/api/{session}/presence"
PRESENCE.page("POST", _PRESENCE, "PresenceController_setPresence", "Set session presence", Method.SET_PRESENCE,
              body=WAHASessionPresence, result=Result, scope=Scope.SEND)  # fmt: skip
PRESENCE.page("GET", _PRESENCE, "PresenceController_getPresenceAll", "Get all subscribed presence information",
              Method.GET_PRESENCE, result=list[WAHAChatPresences])  # fmt: skip
PRESENCE.page("GET", f"{_PRESENCE}/{{chatId}}", "PresenceController_getPresence", "Get the presence for the chat id",
              Method.GET_PRESENCE, where=ChatPath, result=WAHAChatPresences)  # fmt: skip
PRESENCE.page("POST", f"{_PRESENCE}/{{chatId}}/subscribe", "PresenceController_subscribe",
              "Subscribe to presence events for the chat", Method.SUBSCRIBE_PRESENCE,
              where=ChatPath, result=Result, scope=Scope.READ)  # fmt: skip

# --- Stories

_STATUS = "/api/{session}/status"
_FOR_SOME = "contacts: stories go to those whom the account's privacy settings name; leave it out"

_NO_ID = "id: WhatsApp chooses the ids of stories with files; leave it out"


def _declare_story(kind: str, body: type[Any], what: str) -> None:
    @STATUS.route(
        "POST", f"{_STATUS}/{kind}", f"StatusController_send{kind.capitalize()}Status",
        body=body, result=WAMessage, scope=Scope.SEND, calls=Method.SEND_STATUS,
    )  # fmt: skip
    async def send(services: Services, call: Call) -> Any:
        """Send a status."""
        params = call.params()
        if params.pop("contacts", None):
            raise UnprocessableError(_FOR_SOME)
        if "file" in params and "id" in params:
            raise UnprocessableError(_NO_ID)
        return await calls.ask(services, call, Method.SEND_STATUS, {**params, "kind": what})


_declare_story("text", TextStatus, "text")
_declare_story("image", ImageStatus, "image")
_declare_story("voice", VoiceStatus, "voice")
_declare_story("video", VideoStatus, "video")
STATUS.page("POST", f"{_STATUS}/delete", "StatusController_deleteStatus", "Delete sent status", Method.DELETE_STATUS,
            body=DeleteStatusRequest, result=Result, scope=Scope.SEND)  # fmt: skip
STATUS.page("GET", f"{_STATUS}/new-message-id", "StatusController_getNewMessageId", "Generate a message id",
            Method.NEW_MESSAGE_ID, result=NewMessageIDResponse)  # fmt: skip

# --- Labels

_LABELS = "/api/{session}/labels"
LABELS.page("GET", _LABELS, "LabelsController_getAll", "Get all labels", Method.GET_LABELS,
            result=list[Label])  # fmt: skip
LABELS.page("POST", _LABELS, "LabelsController_create", "Create a new label", Method.PUT_LABEL,
            body=LabelBody, result=Label)  # fmt: skip
LABELS.page("PUT", f"{_LABELS}/{{labelId}}", "LabelsController_update", "Update a label", Method.PUT_LABEL,
            where=LabelPath, body=LabelBody, result=Label)  # fmt: skip
LABELS.page("DELETE", f"{_LABELS}/{{labelId}}", "LabelsController_delete", "Delete a label", Method.DELETE_LABEL,
            where=LabelPath, result=Result, scope=Scope.DELETE)  # fmt: skip
LABELS.page("GET", f"{_LABELS}/chats/{{chatId}}", "LabelsController_getChatLabels", "Get labels for the chat",
            Method.GET_CHAT_LABELS, where=ChatPath, result=list[Label])  # fmt: skip
LABELS.page("PUT", f"{_LABELS}/chats/{{chatId}}", "LabelsController_putChatLabels", "Save labels for the chat",
            Method.SET_CHAT_LABELS, where=ChatPath, body=SetLabelsRequest, result=Result)  # fmt: skip
LABELS.page("GET", f"{_LABELS}/{{labelId}}/chats", "LabelsController_getChatsByLabel", "Get chats by label",
            Method.GET_LABELLED_CHATS, where=LabelPath, result=list[ChatInfo])  # fmt: skip

# --- Channels

_CHANNELS = "/api/{session}/channels"
_CHANNEL = f"{_CHANNELS}/{{id}}"
_NO_DIRECTORY = "wa-js searches channels by text only"
CHANNELS.page("GET", _CHANNELS, "ChannelsController_list", "Get list of known channels", Method.GET_CHANNELS,
              query=ChannelsQuery, result=list[Channel])  # fmt: skip


@CHANNELS.route(
    "POST", _CHANNELS, "ChannelsController_create",
    body=CreateChannelRequest, result=Channel, calls=Method.CREATE_CHANNEL,
)  # fmt: skip
async def create_channel(services: Services, call: Call) -> Any:
    """Create a new channel."""
    params = call.params()
    params["file"] = params.pop("picture", None)
    return await calls.ask(services, call, Method.CREATE_CHANNEL, params)


CHANNELS.page("DELETE", _CHANNEL, "ChannelsController_delete", "Delete the channel", Method.DELETE_CHANNEL,
              where=ChannelPath, result=Result, scope=Scope.DELETE)  # fmt: skip
CHANNELS.page("GET", _CHANNEL, "ChannelsController_get", "Get the channel info", Method.GET_CHANNEL,
              where=ChannelPath, result=Channel)  # fmt: skip
CHANNELS.absent("GET", f"{_CHANNEL}/messages/preview", "ChannelsController_previewChannelMessages",
                "Preview channel messages", "wa-js cannot read channels that the account does not follow")  # fmt: skip
for _name, _method, _fixed in (
    ("follow", Method.FOLLOW_CHANNEL, {"follow": True}),
    ("unfollow", Method.FOLLOW_CHANNEL, {"follow": False}),
    ("mute", Method.MUTE_CHANNEL, {"mute": True}),
    ("unmute", Method.MUTE_CHANNEL, {"mute": False}),
):
    CHANNELS.page("POST", f"{_CHANNEL}/{_name}", f"ChannelsController_{_name}", f"{_name.capitalize()} the channel",
                  _method, where=ChannelPath, result=Result, fixed=_fixed)  # fmt: skip
CHANNELS.absent("POST", f"{_CHANNELS}/search/by-view", "ChannelsController_searchByView",
                "Search for channels (by view)", _NO_DIRECTORY, scope=Scope.READ)  # fmt: skip
CHANNELS.page("POST", f"{_CHANNELS}/search/by-text", "ChannelsController_searchByText",
              "Search for channels (by text)", Method.SEARCH_CHANNELS, status=200,
              body=ChannelSearchByText, result=ChannelListResult, scope=Scope.READ)  # fmt: skip
for _name, _what in (("views", "views"), ("countries", "countries"), ("categories", "categories")):
    CHANNELS.absent("GET", f"{_CHANNELS}/search/{_name}", f"ChannelsController_getSearch{_name.capitalize()}",
                    f"Get list of {_what} for channel search", _NO_DIRECTORY)  # fmt: skip
