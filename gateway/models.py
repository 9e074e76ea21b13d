"""Requests and answers of WAHA's API, with its names, as pydantic models.

Owns shapes and limits of what crosses the public API. Must not know how anything is done. Requests are lenient as
WAHA is: unknown fields are ignored, null stands for absent, a missing session means "default".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from session_worker.contract import WahaStatus

SessionName = Annotated[
    str,
    Field(min_length=1, max_length=54, pattern=r"^[a-zA-Z0-9_-]+$", examples=["default"]),
]


class Model(BaseModel):
    """Base of all models: WAHA's names are camelCase already, so fields carry them as they are."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


# --- Chat ids


def chat_id(value: str) -> str:
    """A chat id with its server; a bare number is a person's."""
    value = value.strip()
    if "@" in value:
        return value.replace("@s.whatsapp.net", "@c.us")
    digits = value.lstrip("+").replace(" ", "").replace("-", "")
    if not digits.isdigit():
        raise ValueError("chatId must be a number or an id such as 5511987654321@c.us")
    return f"{digits}@c.us"


def text_or(default: str) -> BeforeValidator:
    """A validator that takes the empty objects for a text which clients generated from WAHA's description may send."""
    return BeforeValidator(lambda value: value if isinstance(value, str) else default)


def with_server(server: str, what: str) -> AfterValidator:
    """A validator that gives a bare id its server, and takes no other."""

    def complete(value: str) -> str:
        value = value.strip()
        user, at, given = value.partition("@")
        if not user or (at and given != server):
            raise ValueError(f"{what} must be an id such as 123@{server}")
        return f"{user}@{server}"

    return AfterValidator(complete)


ChatId = Annotated[str, Field(min_length=1, max_length=100, examples=["11111111111@c.us"]), AfterValidator(chat_id)]
GroupId = Annotated[str, Field(max_length=100, examples=["123123123@g.us"]), with_server("g.us", "the group's id")]
ChannelId = Annotated[
    str, Field(max_length=100, examples=["123123123@newsletter"]), with_server("newsletter", "the channel's id")
]
LidId = Annotated[str, Field(max_length=100, examples=["123123123@lid"]), with_server("lid", "the lid")]
MessageId = Annotated[
    str, Field(min_length=1, max_length=200, examples=["false_11111111111@c.us_AAAAAAAAAAAAAAAAAAAA"])
]
MAX_PAGE = 1000
Limit = Annotated[int, Field(ge=0, le=MAX_PAGE)]
Offset = Annotated[int, Field(ge=0)]
SortOrder = Literal["desc", "asc"]
Session = Annotated[str, Field(max_length=54, examples=["default"])]


# --- Sessions


class HmacConfiguration(Model):
    """Key that signs webhooks."""

    key: str | None = None


class RetriesConfiguration(Model):
    """When a webhook is tried again."""

    delaySeconds: float | None = None
    attempts: int | None = None
    policy: Literal["linear", "exponential", "constant"] | None = None


class CustomHeader(Model):
    """A header added to webhooks."""

    name: str
    value: str


class WebhookConfig(Model):
    """A receiver of events."""

    url: str
    events: list[str]
    hmac: HmacConfiguration | None = None
    retries: RetriesConfiguration | None = None
    customHeaders: list[CustomHeader] | None = None


class ProxyConfig(Model):
    """A proxy of a session's browser."""

    server: str
    username: str | None = None
    password: str | None = None


class IgnoreConfig(Model):
    """Chats whose events are not delivered."""

    status: bool | None = None
    groups: bool | None = None
    channels: bool | None = None
    broadcast: bool | None = None


class SessionConfig(Model):
    """A session's configuration. Settings of engines other than ours are kept and given back."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    metadata: dict[str, str] | None = None
    proxy: ProxyConfig | None = None
    ignore: IgnoreConfig | None = None
    webhooks: list[WebhookConfig] | None = None


class SessionCreateRequest(Model):
    """Body of POST /api/sessions. There are no apps here: a list of them is taken and has no effect."""

    name: SessionName | None = None
    start: bool | None = True
    config: SessionConfig | None = None
    apps: list[Any] | None = None


class SessionUpdateRequest(Model):
    """Body of PUT /api/sessions/{session}: replaces the configuration as a whole."""

    config: SessionConfig | None = None
    apps: list[Any] | None = None


class SessionStartDeprecatedRequest(Model):
    """Body of POST /api/sessions/start."""

    name: SessionName
    config: SessionConfig | None = None


class SessionStopDeprecatedRequest(Model):
    """Body of POST /api/sessions/stop."""

    name: SessionName
    logout: bool | None = False


class SessionLogoutDeprecatedRequest(Model):
    """Body of POST /api/sessions/logout."""

    name: SessionName


class MeInfo(Model):
    """The linked account."""

    id: str
    pushName: str
    lid: str | None = None


class SessionDTO(Model):
    """A session after a change."""

    name: str
    status: WahaStatus
    config: SessionConfig | None = None


class Timestamps(Model):
    """When a session was last active, Unix time in milliseconds."""

    activity: int | None = None


class SessionInfo(SessionDTO):
    """A session in lists."""

    me: MeInfo | None = None
    assignedWorker: str | None = None
    presence: dict[str, Any] | None = None
    timestamps: Timestamps = Timestamps()


class EngineInfo(Model):
    """What drives the session."""

    engine: str
    state: str | None = None


class SessionDetailedInfo(SessionInfo):
    """A session by itself."""

    engine: EngineInfo


# --- Pairing


class QRCodeValue(Model):
    """The text of a QR code."""

    value: str


class Base64File(Model):
    """A file in JSON."""

    mimetype: str
    data: str


class RequestCodeRequest(Model):
    """Body of POST /api/{session}/auth/request-code."""

    phoneNumber: Annotated[str, Field(pattern=r"^\+?[0-9]{7,15}$")]
    method: str | None = None


class PairingCode(Model):
    """A pairing code, `ABCD-EFGH`."""

    code: str


# --- Files


class RemoteFile(Model):
    """A file that is fetched from an address."""

    url: Annotated[str, Field(max_length=4096, examples=["https://example.org/picture.jpeg"])]
    mimetype: Annotated[str | None, Field(examples=["image/jpeg"])] = None
    filename: Annotated[str | None, Field(examples=["picture.jpeg"])] = None


class BinaryFile(Model):
    """A file in base64."""

    data: str
    mimetype: str | None = None
    filename: str | None = None


VOICE_TYPE = "audio/ogg; codecs=opus"


class VoiceRemoteFile(RemoteFile):
    """A voice message that is fetched from an address."""

    mimetype: Annotated[str, text_or(VOICE_TYPE)] = VOICE_TYPE


class VoiceBinaryFile(BinaryFile):
    """A voice message in base64."""

    mimetype: Annotated[str, text_or(VOICE_TYPE)] = VOICE_TYPE
    filename: Annotated[str, text_or("voice-message.oga")] = "voice-message.oga"


class VideoRemoteFile(RemoteFile):
    """A video that is fetched from an address."""

    mimetype: Annotated[str, text_or("video/mp4")] = "video/mp4"
    filename: Annotated[str, text_or("video.mp4")] = "video.mp4"


class VideoBinaryFile(BinaryFile):
    """A video in base64."""

    mimetype: Annotated[str, text_or("video/mp4")] = "video/mp4"
    filename: Annotated[str, text_or("video.mp4")] = "video.mp4"


# --- Chatting


class ChatRequest(Model):
    """A chat of a session."""

    session: Session = "default"
    chatId: ChatId


class OutgoingRequest(ChatRequest):
    """What all messages have in common."""

    id: Annotated[str | None, Field(max_length=200, examples=["3EB0C431C26A1916E07A"])] = None
    reply_to: MessageId | None = None


class MessageTextRequest(OutgoingRequest):
    """Body of POST /api/sendText."""

    text: Annotated[str, Field(max_length=65_536)]
    mentions: list[str] | None = None
    linkPreview: bool | None = True
    linkPreviewHighQuality: bool | None = False


class MessageReplyRequest(MessageTextRequest):
    """Body of POST /api/reply."""


class SendTextQuery(Model):
    """Query of GET /api/sendText."""

    phone: ChatId
    text: Annotated[str, Field(max_length=65_536)]
    session: Session = "default"


class MessageImageRequest(OutgoingRequest):
    """Body of POST /api/sendImage."""

    file: RemoteFile | BinaryFile
    caption: str | None = None
    mentions: list[str] | None = None


class MessageFileRequest(MessageImageRequest):
    """Body of POST /api/sendFile."""


class MessageVoiceRequest(OutgoingRequest):
    """Body of POST /api/sendVoice."""

    file: VoiceRemoteFile | VoiceBinaryFile
    convert: bool | None = False


class MessageVideoRequest(OutgoingRequest):
    """Body of POST /api/sendVideo."""

    file: VideoRemoteFile | VideoBinaryFile
    convert: bool | None = False
    asNote: bool | None = False
    caption: str | None = None
    mentions: list[str] | None = None


class MessageStickerRequest(OutgoingRequest):
    """Body of POST /api/sendSticker."""

    file: RemoteFile | BinaryFile


class FileURL(Model):
    """A picture by its address."""

    url: Annotated[str, Field(max_length=4096, examples=["https://example.org/picture.jpeg"])]


class FileContent(Model):
    """A picture in base64."""

    data: str


class LinkPreviewData(Model):
    """What is shown of a link."""

    url: str
    title: str
    description: str | None = None
    image: FileURL | FileContent | None = None


class MessageLinkCustomPreviewRequest(OutgoingRequest):
    """Body of POST /api/send/link-custom-preview."""

    text: Annotated[str, Field(max_length=65_536)]
    preview: LinkPreviewData
    linkPreviewHighQuality: bool | None = True


class MessageLinkPreviewRequest(OutgoingRequest):
    """Body of POST /api/sendLinkPreview."""

    url: str
    title: str


class Row(Model):
    """One row of a list."""

    title: str
    description: str | None = ""
    rowId: str


class Section(Model):
    """Rows under a title."""

    title: str
    rows: list[Row]


class SendListMessage(Model):
    """A list to choose from."""

    title: str
    description: str | None = None
    footer: str | None = None
    button: str
    sections: Annotated[list[Section], Field(min_length=1)]


class SendListRequest(OutgoingRequest):
    """Body of POST /api/sendList."""

    message: SendListMessage


class MessageForwardRequest(ChatRequest):
    """Body of POST /api/forwardMessage."""

    messageId: MessageId


class SendSeenRequest(ChatRequest):
    """Body of POST /api/sendSeen: WhatsApp marks the chat as read as a whole."""

    messageId: str | None = None
    messageIds: list[str] | None = None
    participant: str | None = None


class MessageReactionRequest(Model):
    """Body of PUT /api/reaction; an empty reaction takes it back."""

    session: Session = "default"
    messageId: MessageId
    reaction: str


class MessageStarRequest(Model):
    """Body of PUT /api/star."""

    session: Session = "default"
    messageId: MessageId
    chatId: ChatId | None = None
    star: bool


class MessagePoll(Model):
    """A question with answers."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    options: Annotated[list[str], Field(min_length=2, max_length=12)]
    multipleAnswers: Annotated[bool | None, BeforeValidator(lambda value: value or None)] = False


class MessagePollRequest(OutgoingRequest):
    """Body of POST /api/sendPoll."""

    poll: MessagePoll


class MessageLocationRequest(OutgoingRequest):
    """Body of POST /api/sendLocation."""

    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]
    title: str | None = None


class VCardContact(Model):
    """A contact as a vCard."""

    vcard: str


class Contact(Model):
    """A contact by its fields."""

    fullName: str
    phoneNumber: str
    organization: str | None = None
    whatsappId: str | None = None
    vcard: str | None = None


class MessageContactVcardRequest(OutgoingRequest):
    """Body of POST /api/sendContactVcard."""

    contacts: Annotated[list[Contact | VCardContact], Field(min_length=1, max_length=100)]


class EventLocation(Model):
    """Where an event is."""

    name: str


class EventMessage(Model):
    """An event; times are Unix seconds."""

    name: str
    description: str | None = None
    startTime: int
    endTime: int | None = None
    location: EventLocation | None = None
    extraGuestsAllowed: bool | None = None


class EventMessageRequest(Model):
    """Body of POST /api/{session}/events."""

    chatId: ChatId
    id: str | None = None
    reply_to: MessageId | None = None
    event: EventMessage


class WAMedia(Model):
    """A message's file. It is fetched from WhatsApp when somebody asks for `url`."""

    url: str | None = None
    mimetype: str | None = None
    filename: str | None = None
    error: Any = None


class WALocation(Model):
    """A place."""

    latitude: str
    longitude: str
    live: bool
    description: str | None = None


class ReplyToMessage(Model):
    """The message that is answered."""

    id: str
    participant: str | None = None
    body: str | None = None
    hasMedia: bool


class WAMessage(Model):
    """A message."""

    model_config = ConfigDict(extra="allow")

    id: str
    timestamp: int
    from_: str = Field(alias="from")
    fromMe: bool
    source: Literal["api", "app"]
    to: str | None
    participant: str | None
    body: str
    hasMedia: bool
    media: WAMedia | None = None
    mediaUrl: str = ""
    ack: Literal[-1, 0, 1, 2, 3, 4]
    ackName: str
    location: WALocation | None = None
    vCards: list[str] = []
    replyTo: ReplyToMessage | None = None


class NewMessageIDResponse(Model):
    """An id for a message to be sent."""

    id: str


class WANumberExistResult(Model):
    """Whether a number is on WhatsApp."""

    numberExists: bool
    chatId: str | None = None


class CheckExistsQuery(Model):
    """Query of GET /api/contacts/check-exists."""

    phone: ChatId
    session: Session = "default"


class Result(Model):
    """It is done."""

    success: bool = True


class TypingResult(Result):
    """It is done, also in the words of older versions."""

    result: bool = True


# --- Chats


class ChatPath(Model):
    """A chat in a path."""

    chatId: ChatId


class MessagePath(ChatPath):
    """A message in a path."""

    messageId: MessageId


class PageQuery(Model):
    """A part of a list."""

    limit: Limit | None = None
    offset: Offset | None = None


class ChatsQuery(PageQuery):
    """Query of GET /api/{session}/chats."""

    sortBy: Literal["messageTimestamp", "conversationTimestamp", "id", "name"] | None = None
    sortOrder: SortOrder | None = None
    merge: bool | None = True


class OverviewQuery(Model):
    """Query of GET /api/{session}/chats/overview."""

    limit: Limit | None = 20
    offset: Offset | None = None
    ids: list[str] | None = None
    merge: bool | None = True


class GetChatsOverviewParams(Model):
    """Which part of the overview."""

    limit: Limit | None = 20
    offset: Offset | None = None
    merge: bool | None = True


class OverviewFilter(Model):
    """Which chats."""

    ids: list[str] | None = None


class OverviewBodyRequest(Model):
    """Body of POST /api/{session}/chats/overview."""

    pagination: GetChatsOverviewParams = GetChatsOverviewParams()
    filter: OverviewFilter | None = None


class MessagesQuery(Model):
    """Query of GET /api/{session}/chats/{chatId}/messages."""

    limit: Limit = 10
    offset: Offset | None = None
    sortBy: Literal["timestamp", "messageTimestamp"] | None = "timestamp"
    sortOrder: SortOrder | None = "desc"
    downloadMedia: bool | None = True
    merge: bool | None = True
    until: int | None = Field(None, alias="filter.timestamp.lte")
    since: int | None = Field(None, alias="filter.timestamp.gte")
    from_me: bool | None = Field(None, alias="filter.fromMe")
    with_ack: Literal["ERROR", "PENDING", "SERVER", "DEVICE", "READ", "PLAYED"] | None = Field(None, alias="filter.ack")


class MessagesQueryDeprecated(MessagesQuery):
    """Query of GET /api/messages."""

    chatId: ChatId
    session: Session = "default"


class MessageQuery(Model):
    """Query of GET /api/{session}/chats/{chatId}/messages/{messageId}."""

    downloadMedia: bool | None = True
    merge: bool | None = True


class ReadChatQuery(Model):
    """Query, or body, of POST /api/{session}/chats/{chatId}/messages/read."""

    messages: Annotated[int | None, Field(ge=1, le=MAX_PAGE)] = None
    days: Annotated[float, Field(gt=0, le=3650)] = 7


class ReadChatMessagesResponse(Model):
    """The messages that were unread."""

    ids: list[str]


class EditMessageRequest(Model):
    """Body of PUT /api/{session}/chats/{chatId}/messages/{messageId}."""

    text: Annotated[str, Field(min_length=1, max_length=65_536)]
    linkPreview: bool | None = True
    linkPreviewHighQuality: bool | None = False


class PinMessageRequest(Model):
    """Body of POST …/pin: seconds, a day, a week or a month."""

    duration: Literal[86400, 604800, 2592000] = 86400


class RefreshQuery(Model):
    """Query of pictures: WhatsApp's own cache decides."""

    refresh: bool | None = False


class ChatPictureResponse(Model):
    """The address of a picture, or null."""

    url: str | None


class ChatInfo(Model):
    """A chat."""

    id: str
    name: str
    isGroup: bool
    isReadOnly: bool
    timestamp: int | None
    unreadCount: int
    archived: bool
    pinned: bool
    isMuted: bool
    muteExpiration: int | None
    lastMessage: WAMessage | None


class ChatSummary(Model):
    """A chat in the overview."""

    id: str
    name: str
    picture: str | None
    lastMessage: WAMessage | None
    chat: dict[str, Any] = Field(alias="_chat")


class RejectCallRequest(Model):
    """Body of POST /api/{session}/calls/reject."""

    from_: str | None = Field(None, alias="from")
    id: str


# --- Contacts


class ContactsQuery(PageQuery):
    """Query of GET /api/contacts/all."""

    session: Session = "default"
    sortBy: Literal["id", "name"] | None = None
    sortOrder: SortOrder | None = None


class ContactQuery(Model):
    """Query that names a contact."""

    contactId: ChatId
    session: Session = "default"


class ContactPictureQuery(ContactQuery):
    """Query of GET /api/contacts/profile-picture."""

    refresh: bool | None = False


class CheckNumberQuery(CheckExistsQuery):
    """Query of GET /api/checkNumberStatus."""


class ContactRequest(Model):
    """Body that names a contact."""

    contactId: ChatId
    session: Session = "default"


class ContactPath(Model):
    """A contact in a path."""

    contactId: ChatId = Field(alias="id")


class ContactChatPath(Model):
    """A contact in a path, by its chat."""

    contactId: ChatId = Field(alias="chatId")


class ContactUpdateBody(Model):
    """Body of PUT /api/{session}/contacts/{chatId}."""

    firstName: Annotated[str, Field(min_length=1, max_length=200)]
    lastName: str | None = None


class ContactInfo(Model):
    """A contact."""

    id: str
    number: str
    name: str | None
    pushname: str | None
    shortName: str | None
    isMe: bool
    isGroup: bool
    isWAContact: bool
    isMyContact: bool
    isBlocked: bool
    isBusiness: bool


class ContactAbout(Model):
    """What somebody says of themselves; null where it is hidden."""

    about: str | None


class ContactPicture(Model):
    """The address of a picture; null where it is hidden or there is none."""

    profilePictureURL: str | None


class LidPath(Model):
    """A lid in a path."""

    contactId: LidId = Field(alias="lid")


class PhonePath(Model):
    """A phone number in a path."""

    contactId: ChatId = Field(alias="phoneNumber")


class LidToPhoneNumber(Model):
    """A lid and the number behind it; null where it is not known."""

    lid: str | None
    pn: str | None


class CountResponse(Model):
    """How many there are."""

    count: int


# --- Groups


class GroupPath(Model):
    """A group in a path."""

    groupId: GroupId = Field(alias="id")


class Participant(Model):
    """Somebody in a group."""

    id: ChatId


class CreateGroupRequest(Model):
    """Body of POST /api/{session}/groups."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    participants: list[Participant]


class GroupsQuery(PageQuery):
    """Query of GET /api/{session}/groups."""

    sortBy: Literal["id", "subject"] | None = None
    sortOrder: SortOrder | None = None
    exclude: list[Literal["", "participants"]] | None = None


class JoinInfoQuery(Model):
    """Query of GET /api/{session}/groups/join-info."""

    code: Annotated[str, Field(min_length=1, max_length=200)]


class JoinGroupRequest(Model):
    """Body of POST /api/{session}/groups/join: the code, or the link with it."""

    code: Annotated[str, Field(min_length=1, max_length=200)]


class JoinGroupResponse(Model):
    """The group that was joined."""

    id: str


class DescriptionRequest(Model):
    """Body of PUT …/description."""

    description: Annotated[str, Field(max_length=2048)]


class SubjectRequest(Model):
    """Body of PUT …/subject."""

    subject: Annotated[str, Field(min_length=1, max_length=100)]


class SettingsSecurityChangeInfo(Model):
    """Whether only administrators may."""

    adminsOnly: bool = True


class ParticipantsRequest(Model):
    """Body of changes of participants."""

    participants: Annotated[list[Participant], Field(min_length=1, max_length=1024)]


class GroupParticipant(Model):
    """Somebody in a group; `pn` is the phone number where `id` is a lid."""

    id: str
    pn: str | None = None
    role: Literal["left", "participant", "admin", "superadmin"]


class GroupMember(Model):
    """Somebody in a group, in the words of older versions."""

    id: str
    pn: str | None = None
    isAdmin: bool
    isSuperAdmin: bool


class AddressedResult(Model):
    """What became of one participant; 200 is well."""

    id: str
    code: int


class ParticipantsResult(Result):
    """What became of each participant, where WhatsApp says so."""

    participants: list[AddressedResult]


class GroupInfo(Model):
    """A group."""

    id: str
    subject: str
    description: str
    invite: str | None = None
    owner: str | None
    creation: int | None
    size: int
    membersCanAddNewMember: bool | None = None
    membersCanSendMessages: bool
    membersCanChangeInfo: bool
    newMembersApprovalRequired: bool | None = None
    participants: list[GroupParticipant] | None = None


class CreatedGroup(GroupInfo):
    """A new group, and what became of each participant."""

    results: list[AddressedResult]


class GroupJoinRequest(Model):
    """Somebody who asks to be let into a group; `timestamp` is Unix time in seconds."""

    requesterId: str
    requesterPn: str | None = None
    addedById: str | None = None
    parentGroupId: str | None = None
    requestMethod: str | None = None
    timestamp: int | None = None


class GroupJoinRequestResult(Model):
    """What became of one request."""

    requesterId: str
    success: bool
    error: int | None = None


# --- Presence


class WAHASessionPresence(Model):
    """Body of POST /api/{session}/presence."""

    chatId: ChatId | None = None
    presence: Literal["offline", "online", "typing", "recording", "paused"]


class WAHAPresenceData(Model):
    """Where somebody is; `lastSeen` is Unix time in seconds."""

    participant: str
    lastSeen: int | None = None
    lastKnownPresence: Literal["offline", "online", "typing", "recording", "paused"]


class WAHAChatPresences(Model):
    """Everybody's presence in a chat."""

    id: str
    presences: list[WAHAPresenceData]


# --- Profile


class MyProfile(Model):
    """The account's profile."""

    id: str
    name: str
    picture: str | None


class ProfileNameRequest(Model):
    """Body of PUT …/profile/name."""

    name: Annotated[str, Field(min_length=1, max_length=25)]


class ProfileStatusRequest(Model):
    """Body of PUT …/profile/status."""

    status: Annotated[str, Field(max_length=139)]


class ProfilePictureRequest(Model):
    """Body of PUT …/picture."""

    file: RemoteFile | BinaryFile


# --- Status


class StatusRequest(Model):
    """What all stories have in common."""

    id: str | None = None
    contacts: list[str] | None = None


class TextStatus(StatusRequest):
    """Body of POST …/status/text."""

    text: Annotated[str, Field(min_length=1, max_length=700)]
    backgroundColor: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = "#38b42f"
    font: Annotated[int, Field(ge=0, le=5)] = 0
    linkPreview: bool | None = True
    linkPreviewHighQuality: bool | None = False


class ImageStatus(StatusRequest):
    """Body of POST …/status/image."""

    file: RemoteFile | BinaryFile
    caption: str | None = None


class VoiceStatus(StatusRequest):
    """Body of POST …/status/voice."""

    file: VoiceRemoteFile | VoiceBinaryFile
    convert: bool | None = False
    backgroundColor: str | None = "#38b42f"


class VideoStatus(StatusRequest):
    """Body of POST …/status/video."""

    file: VideoRemoteFile | VideoBinaryFile
    convert: bool | None = False
    caption: str | None = None


class DeleteStatusRequest(StatusRequest):
    """Body of POST …/status/delete."""


# --- Labels


class Label(Model):
    """A label of a business account."""

    id: str
    name: str
    color: int
    colorHex: str


class LabelBody(Model):
    """Body that makes or changes a label: `color` is WhatsApp's index."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    color: Annotated[int | None, Field(ge=0, le=19)] = None
    colorHex: str | None = None


class LabelID(Model):
    """A label by its id."""

    id: str


class SetLabelsRequest(Model):
    """Body of PUT …/labels/chats/{chatId}: all labels that the chat is to have."""

    labels: list[LabelID]


class LabelPath(Model):
    """A label in a path."""

    labelId: str


# --- Channels


class ChannelPath(Model):
    """A channel in a path."""

    channelId: ChannelId = Field(alias="id")


class ChannelsQuery(Model):
    """Query of GET /api/{session}/channels."""

    role: Literal["OWNER", "ADMIN", "SUBSCRIBER"] | None = None


class Channel(Model):
    """A channel."""

    id: str
    name: str
    invite: str
    preview: str | None = None
    picture: str | None = None
    role: Literal["OWNER", "ADMIN", "SUBSCRIBER", "GUEST"]
    description: str | None = None
    verified: bool
    subscribersCount: int


class CreateChannelRequest(Model):
    """Body of POST /api/{session}/channels."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    description: str | None = None
    picture: RemoteFile | BinaryFile | None = None


class ChannelSearchByText(Model):
    """Body of POST …/channels/search/by-text."""

    text: str
    categories: list[str] = []
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    startCursor: str | None = ""


class ChannelPagination(Model):
    """Where in the results."""

    startCursor: str
    endCursor: str
    hasNextPage: bool
    hasPreviousPage: bool


class ChannelPublicInfo(Model):
    """A channel that anybody can see."""

    id: str
    name: str
    invite: str
    preview: str | None = None
    picture: str | None = None
    description: str | None = None
    verified: bool
    subscribersCount: int


class ChannelListResult(Model):
    """Channels that were found."""

    page: ChannelPagination
    channels: list[ChannelPublicInfo]


# --- API keys


class SessionActionsDTO(Model):
    """What a key of a session may do."""

    read: bool = True
    send: bool = True
    control: bool = True
    setting: bool = True
    app: bool = True
    delete: bool = False


class ApiKeyRequest(Model):
    """Body of POST and PUT /api/keys."""

    isAdmin: bool = False
    session: SessionName | None = None
    isActive: bool = True
    actions: SessionActionsDTO | None = None


class ScopedApiKeyRequest(Model):
    """Body of POST /api/keys/media and /api/keys/control."""

    session: SessionName


class ApiKeyDTO(Model):
    """A key. The key itself is told once, when it is made; later it is masked, for only its hash is kept."""

    id: str
    key: str
    isActive: bool
    isAdmin: bool
    session: str | None = None
    actions: SessionActionsDTO | None = None


class KeyPath(Model):
    """A key in a path."""

    id: str


# --- Webhooks


class DeadLetter(Model):
    """An event that a receiver did not take after the last attempt."""

    id: str
    url: str | None
    """Null when the session has no such webhook any more."""
    reason: str
    timestamp: int
    """When it was given up, Unix time in milliseconds."""
    event: dict[str, Any]
    """The envelope."""


class DeadLettersQuery(Model):
    """Query of GET …/webhooks/dead-letters."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100


class ReplayRequest(Model):
    """Body of POST …/webhooks/dead-letters: which to deliver again, or all of them, the oldest first."""

    ids: list[str] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100


class ReplayedLetter(Model):
    """What became of a dead letter: delivered and removed, or kept for the reason given."""

    id: str
    delivered: bool
    reason: str | None = None


# --- Observability


class SessionsQuery(Model):
    """Query of GET /api/sessions."""

    all: bool = False
    expand: list[str] | None = None


class SessionQuery(Model):
    """Query of GET /api/sessions/{session}."""

    expand: list[str] | None = None


class QrQuery(Model):
    """Query of GET /api/{session}/auth/qr."""

    format: Literal["image", "raw"] = "image"


class PingResponse(Model):
    """Answer of GET /ping."""

    message: Literal["pong"] = "pong"


class HealthResponse(Model):
    """Answer of GET /health."""

    status: Literal["ok", "error", "shutting_down"]
    info: dict[str, Any]
    error: dict[str, Any]
    details: dict[str, Any]


class WorkerInfo(Model):
    """Which process answers."""

    id: str


class WAHAEnvironment(Model):
    """What the server is."""

    version: str
    engine: str
    tier: str
    browser: str
    platform: str
    worker: WorkerInfo


class ServerStatusResponse(Model):
    """How long the server has been there; milliseconds."""

    startTimestamp: int
    uptime: int
    worker: WorkerInfo


class EnvironmentQuery(Model):
    """Query of GET /api/server/environment."""

    all: bool = False


class AppsQuery(Model):
    """Query of GET /api/apps."""

    session: Session = "default"
