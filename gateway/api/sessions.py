"""Sessions: list, make, change, start, stop, remove."""

from __future__ import annotations

import uuid

from aiohttp import web

from gateway import translation
from gateway.errors import NotFoundError, UnprocessableError
from gateway.keys import Scope
from gateway.models import (
    MeInfo,
    SessionCreateRequest,
    SessionDetailedInfo,
    SessionDTO,
    SessionInfo,
    SessionLogoutDeprecatedRequest,
    SessionQuery,
    SessionsQuery,
    SessionStartDeprecatedRequest,
    SessionStopDeprecatedRequest,
    SessionUpdateRequest,
)
from gateway.operations import Call, Operations
from gateway.services import Services
from kubeclient import Object
from session_worker.contract import Command, WahaStatus

OPERATIONS = Operations("🖥️ Sessions")


@OPERATIONS.route("GET", "/api/sessions", "SessionsController_list", query=SessionsQuery, result=list[SessionInfo])
async def list_sessions(services: Services, call: Call) -> list[SessionInfo]:
    """List all sessions."""
    await services.store.listed()
    items = [item for item in services.store.all() if call.access.sees(translation.session_name(item))]
    states = await services.router.states(items)
    infos = [translation.to_info(item, states.get(services.store.key(item))) for item in items]
    return [info for info in infos if call.query.all or info.status is not WahaStatus.STOPPED]


@OPERATIONS.route(
    "GET", "/api/sessions/{session}", "SessionsController_get", query=SessionQuery, result=SessionDetailedInfo
)
async def get_session(services: Services, call: Call) -> SessionInfo:
    """Get session information."""
    item = await services.store.get(call.session)
    return translation.to_detail(item, await services.router.state(item))


@OPERATIONS.route(
    "POST", "/api/sessions", "SessionsController_create",
    body=SessionCreateRequest, result=SessionDTO, scope=Scope.OPEN,
)  # fmt: skip
async def create_session(services: Services, call: Call) -> SessionDTO:
    """Create a session."""
    asked: SessionCreateRequest = call.body
    name = asked.name or f"session_{uuid.uuid4().hex}"
    call.access.check(Scope.SETTING, name)
    item = await services.store.create(name, config=asked.config, running=asked.start is not False)
    return await _dto(services, item)


@OPERATIONS.route(
    "PUT", "/api/sessions/{session}", "SessionsController_update", body=SessionUpdateRequest, result=SessionDTO
)
async def update_session(services: Services, call: Call) -> SessionDTO:
    """Update a session."""
    asked: SessionUpdateRequest = call.body
    item = await services.store.get(call.session)
    return await _dto(services, await services.store.configure(item, asked.config))


@OPERATIONS.route("DELETE", "/api/sessions/{session}", "SessionsController_delete", scope=Scope.DELETE)
async def delete_session(services: Services, call: Call) -> None:
    """Delete the session."""
    try:
        item = await services.store.get(call.session)
    except NotFoundError:
        return  # deleting is idempotent
    await services.store.delete(item)


@OPERATIONS.route("GET", "/api/sessions/{session}/me", "SessionsController_getMe", result=MeInfo | None)
async def get_me(services: Services, call: Call) -> MeInfo | web.Response:
    """Get information about the authenticated account."""
    item = await services.store.get(call.session)
    # WAHA says null, not nothing, of a session without an account.
    return translation.me_of(item, await services.router.state(item)) or web.json_response(None)


@OPERATIONS.route(
    "POST", "/api/sessions/{session}/start", "SessionsController_start", result=SessionDTO, scope=Scope.CONTROL
)
async def start_session(services: Services, call: Call) -> SessionDTO:
    """Start the session."""
    item = await services.store.get(call.session)
    return await _dto(services, await services.store.set_state(item, running=True))


@OPERATIONS.route(
    "POST", "/api/sessions/{session}/stop", "SessionsController_stop", result=SessionDTO, scope=Scope.CONTROL
)
async def stop_session(services: Services, call: Call) -> SessionDTO:
    """Stop the session."""
    item = await services.store.get(call.session)
    return await _dto(services, await services.store.set_state(item, running=False))


@OPERATIONS.route(
    "POST", "/api/sessions/{session}/restart", "SessionsController_restart", result=SessionDTO, scope=Scope.CONTROL
)
async def restart_session(services: Services, call: Call) -> SessionDTO:
    """Restart the session."""
    item = await services.store.get(call.session)
    if await _runs(services, item):
        await services.router.command(call.session, Command.RESTART)
    else:
        item = await services.store.set_state(item, running=True)
    return await _dto(services, item)


@OPERATIONS.route(
    "POST", "/api/sessions/{session}/logout", "SessionsController_logout", result=SessionDTO, scope=Scope.CONTROL
)
async def log_out_session(services: Services, call: Call) -> SessionDTO:
    """Logout from the session."""
    item = await services.store.get(call.session)
    if await _runs(services, item):
        await services.router.command(call.session, Command.LOGOUT)
    return await _dto(services, item)


_UNTOLD = "wa-js does not show the limits that WhatsApp puts on an account"
OPERATIONS.absent("GET", "/api/sessions/{session}/capping", "SessionsController_fetchMessageCapping",
                  "Get how many more new chats the account may begin", _UNTOLD)  # fmt: skip
OPERATIONS.absent("GET", "/api/sessions/{session}/timelock", "SessionsController_fetchReachoutTimelock",
                  "Get until when the account may begin no new chats", _UNTOLD)  # fmt: skip


# --- What older clients call


@OPERATIONS.route(
    "POST", "/api/sessions/start", "SessionsController_DEPRACATED_start",
    body=SessionStartDeprecatedRequest, result=SessionDTO, scope=Scope.OPEN, deprecated=True,
)  # fmt: skip
async def upsert_and_start(services: Services, call: Call) -> SessionDTO:
    """Upsert and start session."""
    asked: SessionStartDeprecatedRequest = call.body
    call.access.check(Scope.CONTROL, asked.name)
    try:
        item = await services.store.get(asked.name)
    except NotFoundError:
        call.access.check(Scope.SETTING, asked.name)
        return await _dto(services, await services.store.create(asked.name, config=asked.config, running=True))
    if translation.is_wanted(item):
        raise UnprocessableError(f"Session '{asked.name}' is already started.")
    if asked.config is not None:
        call.access.check(Scope.SETTING, asked.name)
        item = await services.store.configure(item, asked.config)
    return await _dto(services, await services.store.set_state(item, running=True))


@OPERATIONS.route(
    "POST", "/api/sessions/stop", "SessionsController_DEPRECATED_stop",
    body=SessionStopDeprecatedRequest, scope=Scope.OPEN, deprecated=True,
)  # fmt: skip
async def stop_and_log_out(services: Services, call: Call) -> None:
    """Stop, and log out if asked."""
    asked: SessionStopDeprecatedRequest = call.body
    call.access.check(Scope.CONTROL, asked.name)
    try:
        item = await services.store.get(asked.name)
    except NotFoundError:
        return  # stopping is idempotent
    if asked.logout and await _runs(services, item):
        await services.router.command(asked.name, Command.LOGOUT)
    await services.store.set_state(item, running=False)


@OPERATIONS.route(
    "POST", "/api/sessions/logout", "SessionsController_DEPRECATED_logout",
    body=SessionLogoutDeprecatedRequest, scope=Scope.OPEN, deprecated=True,
)  # fmt: skip
async def log_out_and_delete(services: Services, call: Call) -> None:
    """Logout and delete session."""
    asked: SessionLogoutDeprecatedRequest = call.body
    call.access.check(Scope.DELETE, asked.name)
    try:
        item = await services.store.get(asked.name)
    except NotFoundError:
        return  # deleting is idempotent
    await services.store.delete(item)


async def _runs(services: Services, item: Object) -> bool:
    status = translation.status_of(item, await services.router.state(item))
    return item["spec"].get("state") == "Running" and status is not WahaStatus.STOPPED


async def _dto(services: Services, item: Object) -> SessionDTO:
    return translation.to_dto(item, await services.router.state(item))
