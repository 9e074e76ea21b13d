"""Groups."""

from __future__ import annotations

from typing import Any

from gateway import calls
from gateway.keys import Scope
from gateway.models import (
    ChatPictureResponse,
    CountResponse,
    CreatedGroup,
    CreateGroupRequest,
    DescriptionRequest,
    GroupInfo,
    GroupJoinRequest,
    GroupJoinRequestResult,
    GroupMember,
    GroupParticipant,
    GroupPath,
    GroupsQuery,
    JoinGroupRequest,
    JoinGroupResponse,
    JoinInfoQuery,
    ParticipantsRequest,
    ParticipantsResult,
    ProfilePictureRequest,
    RefreshQuery,
    Result,
    SettingsSecurityChangeInfo,
    SubjectRequest,
)
from gateway.operations import Call, Operations
from gateway.services import Services
from session_worker.contract import Method

OPERATIONS = Operations("👥 Groups")

_ALL = "/api/{session}/groups"
_GROUP = f"{_ALL}/{{id}}"
_page = OPERATIONS.page

_page("POST", _ALL, "GroupsController_createGroup", "Create a new group", Method.CREATE_GROUP,
      body=CreateGroupRequest, result=CreatedGroup)  # fmt: skip
_page("GET", _ALL, "GroupsController_getGroups", "Get all groups", Method.GET_GROUPS,
      query=GroupsQuery, result=list[GroupInfo])  # fmt: skip
_page("GET", f"{_ALL}/join-info", "GroupsController_joinInfoGroup", "Get info about the group before joining",
      Method.GET_INVITED_GROUP, query=JoinInfoQuery, result=GroupInfo)  # fmt: skip
_page("POST", f"{_ALL}/join", "GroupsController_joinGroup", "Join group via code", Method.JOIN_GROUP,
      status=200, body=JoinGroupRequest, result=JoinGroupResponse)  # fmt: skip
_page("GET", f"{_ALL}/count", "GroupsController_getGroupsCount", "Get the number of groups", Method.GET_GROUPS,
      result=CountResponse, fixed={"count": True})  # fmt: skip
_page("POST", f"{_ALL}/refresh", "GroupsController_refreshGroups", "Refresh groups from the server",
      Method.GET_GROUPS, status=200, result=Result, fixed={"count": True}, scope=Scope.READ,
      answer=lambda _: {"success": True})  # fmt: skip
_page("GET", _GROUP, "GroupsController_getGroup", "Get the group", Method.GET_GROUP,
      where=GroupPath, result=GroupInfo)  # fmt: skip


@OPERATIONS.route(
    "DELETE", _GROUP, "GroupsController_deleteGroup",
    where=GroupPath, result=Result, scope=Scope.DELETE, calls=Method.ACT_ON_CHAT,
)  # fmt: skip
async def delete_group(services: Services, call: Call) -> Any:
    """Delete the group from this account."""
    params = {"chatId": call.where.groupId, "action": "delete"}
    return await calls.ask(services, call, Method.ACT_ON_CHAT, params)


_page("POST", f"{_GROUP}/leave", "GroupsController_leaveGroup", "Leave the group", Method.LEAVE_GROUP,
      status=200, where=GroupPath, result=Result)  # fmt: skip


@OPERATIONS.route(
    "GET", f"{_GROUP}/picture", "GroupsController_getChatPicture",
    where=GroupPath, query=RefreshQuery, result=ChatPictureResponse, calls=Method.GET_PICTURE,
)  # fmt: skip
async def get_picture(services: Services, call: Call) -> Any:
    """Get group picture."""
    return await calls.ask(services, call, Method.GET_PICTURE, {"contactId": call.where.groupId})


_page("PUT", f"{_GROUP}/picture", "GroupsController_setPicture", "Set group picture", Method.SET_PICTURE,
      where=GroupPath, body=ProfilePictureRequest, result=Result)  # fmt: skip
_page("DELETE", f"{_GROUP}/picture", "GroupsController_deletePicture", "Delete group picture", Method.SET_PICTURE,
      where=GroupPath, result=Result)  # fmt: skip
_page("PUT", f"{_GROUP}/description", "GroupsController_setDescription", "Update the group description",
      Method.SET_GROUP, where=GroupPath, body=DescriptionRequest, result=Result)  # fmt: skip
_page("PUT", f"{_GROUP}/subject", "GroupsController_setSubject", "Update the group subject", Method.SET_GROUP,
      where=GroupPath, body=SubjectRequest, result=Result)  # fmt: skip


def _declare_setting(name: str, key: str, prop: str, shown: str) -> None:
    """A setting of a group: `prop` is WhatsApp's name to write it, `shown` what is true when everybody may."""
    path = f"{_GROUP}/settings/security/{name}"

    @OPERATIONS.route(
        "PUT", path, f"GroupsController_set{key}",
        where=GroupPath, body=SettingsSecurityChangeInfo, result=Result, calls=Method.SET_GROUP,
    )  # fmt: skip
    async def write(services: Services, call: Call) -> Any:
        """Change who may do this in the group."""
        params = {"groupId": call.where.groupId, "property": prop, "value": call.body.adminsOnly}
        return await calls.ask(services, call, Method.SET_GROUP, params)

    @OPERATIONS.route(
        "GET", path, f"GroupsController_get{key}",
        where=GroupPath, result=SettingsSecurityChangeInfo, calls=Method.GET_GROUP,
    )  # fmt: skip
    async def read(services: Services, call: Call) -> Any:
        """Get who may do this in the group."""
        found = await calls.ask(services, call, Method.GET_GROUP, {"groupId": call.where.groupId})
        return {"adminsOnly": not found[shown]}


_declare_setting("info-admin-only", "InfoAdminOnly", "restrict", "membersCanChangeInfo")
_declare_setting("messages-admin-only", "MessagesAdminOnly", "announcement", "membersCanSendMessages")

_page("GET", f"{_GROUP}/invite-code", "GroupsController_getInviteCode", "Get the invite code for the group",
      Method.GET_INVITE, where=GroupPath, result=str)  # fmt: skip
_page("POST", f"{_GROUP}/invite-code/revoke", "GroupsController_revokeInviteCode",
      "Invalidate the current group invite code and generate a new one", Method.GET_INVITE,
      status=200, where=GroupPath, result=str, fixed={"renew": True})  # fmt: skip
_page("GET", f"{_GROUP}/participants", "GroupsController_getParticipants", "Get participants",
      Method.GET_PARTICIPANTS, where=GroupPath, result=list[GroupMember], fixed={"plain": True})  # fmt: skip
_page("GET", f"{_GROUP}/participants/v2", "GroupsController_getGroupParticipants", "Get group participants",
      Method.GET_PARTICIPANTS, where=GroupPath, result=list[GroupParticipant])  # fmt: skip
for _path, _action, _name, _summary in (
    ("participants/add", "add", "addParticipants", "Add participants"),
    ("participants/remove", "remove", "removeParticipants", "Remove participants"),
    ("admin/promote", "promote", "promoteToAdmin", "Promote participants to admin users"),
    ("admin/demote", "demote", "demoteToAdmin", "Demote participants to regular users"),
):
    _page("POST", f"{_GROUP}/{_path}", f"GroupsController_{_name}", _summary, Method.CHANGE_PARTICIPANTS,
          status=200, where=GroupPath, body=ParticipantsRequest, result=ParticipantsResult,
          fixed={"action": _action})  # fmt: skip

_page("GET", f"{_GROUP}/participants/join-requests", "GroupsController_getGroupJoinRequests",
      "Get who asks to be let into the group", Method.GET_JOIN_REQUESTS,
      where=GroupPath, result=list[GroupJoinRequest])  # fmt: skip
for _action in ("approve", "reject"):
    _page("POST", f"{_GROUP}/participants/join-requests/{_action}", f"GroupsController_{_action}GroupJoinRequests",
          f"{_action.capitalize()} requests to join", Method.ANSWER_JOIN_REQUESTS, status=200, where=GroupPath,
          body=ParticipantsRequest, result=list[GroupJoinRequestResult],
          fixed={"approve": _action == "approve"})  # fmt: skip

for _name, _key in (
    ("member-add-mode", "MemberAddMode"),
    ("member-share-history-mode", "MemberShareHistoryMode"),
    ("membership-approval", "MembershipApprovalMode"),
):
    for _method, _verb in (("PUT", "set"), ("GET", "get")):
        OPERATIONS.absent(_method, f"{_GROUP}/settings/security/{_name}", f"GroupsController_{_verb}{_key}",
                          f"{_verb.capitalize()} the group's {_name}",
                          "wa-js sets only who may write and who may change the group's info")  # fmt: skip
