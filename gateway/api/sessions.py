"""Sessions: list, make, change, start, stop, remove."""

from __future__ import annotations

import uuid

from aiohttp import web

from gateway import translation
from gateway.errors import NotFoundError
from gateway.models import MeInfo, SessionCreateRequest, SessionDTO, SessionInfo, SessionsQuery, SessionUpdateRequest
from gateway.operations import Call, Operations
from gateway.services import Services
from kubeclient import Object
from session_worker.contract import Command, WahaStatus

OPERATIONS = Operations("🖥️ Sessions")


@OPERATIONS.route("GET", "/api/sessions", "SessionsController_list", query=SessionsQuery)
async def list_sessions(services: Services, call: Call) -> list[SessionInfo]:
    """List all sessions."""
    await services.store.listed()
    items = services.store.all()
    states = await services.router.states(items)
    infos = [translation.to_info(item, states.get(services.store.key(item))) for item in items]
    return [info for info in infos if call.query.all or info.status is not WahaStatus.STOPPED]


@OPERATIONS.route("GET", "/api/sessions/{session}", "SessionsController_get")
async def get_session(services: Services, call: Call) -> SessionInfo:
    """Get session information."""
    item = await services.store.get(call.session)
    return translation.to_detail(item, await services.router.state(item))


@OPERATIONS.route("POST", "/api/sessions", "SessionsController_create", body=SessionCreateRequest)
async def create_session(services: Services, call: Call) -> SessionDTO:
    """Create a session."""
    asked: SessionCreateRequest = call.body
    name = asked.name or f"session_{uuid.uuid4().hex}"
    item = await services.store.create(name, config=asked.config, running=asked.start is not False)
    return await _dto(services, item)


@OPERATIONS.route("PUT", "/api/sessions/{session}", "SessionsController_update", body=SessionUpdateRequest)
async def update_session(services: Services, call: Call) -> SessionDTO:
    """Update a session."""
    asked: SessionUpdateRequest = call.body
    item = await services.store.get(call.session)
    return await _dto(services, await services.store.configure(item, asked.config))


@OPERATIONS.route("DELETE", "/api/sessions/{session}", "SessionsController_delete")
async def delete_session(services: Services, call: Call) -> None:
    """Delete the session."""
    try:
        item = await services.store.get(call.session)
    except NotFoundError:
        return  # deleting is idempotent
    await services.store.delete(item)


@OPERATIONS.route("GET", "/api/sessions/{session}/me", "SessionsController_getMe")
async def get_me(services: Services, call: Call) -> MeInfo | web.Response:
    """Get information about the authenticated account."""
    item = await services.store.get(call.session)
    # WAHA says null, not nothing, of a session without an account.
    return translation.me_of(item, await services.router.state(item)) or web.json_response(None)


@OPERATIONS.route("POST", "/api/sessions/{session}/start", "SessionsController_start")
async def start_session(services: Services, call: Call) -> SessionDTO:
    """Start the session."""
    item = await services.store.get(call.session)
    return await _dto(services, await services.store.set_state(item, running=True))


@OPERATIONS.route("POST", "/api/sessions/{session}/stop", "SessionsController_stop")
async def stop_session(services: Services, call: Call) -> SessionDTO:
    """Stop the session."""
    item = await services.store.get(call.session)
    return await _dto(services, await services.store.set_state(item, running=False))


@OPERATIONS.route("POST", "/api/sessions/{session}/restart", "SessionsController_restart")
async def restart_session(services: Services, call: Call) -> SessionDTO:
    """Restart the session."""
    item = await services.store.get(call.session)
    if await _runs(services, item):
        await services.router.command(call.session, Command.RESTART)
    else:
        item = await services.store.set_state(item, running=True)
    return await _dto(services, item)


@OPERATIONS.route("POST", "/api/sessions/{session}/logout", "SessionsController_logout")
async def log_out_session(services: Services, call: Call) -> SessionDTO:
    """Logout from the session."""
    item = await services.store.get(call.session)
    if await _runs(services, item):
        await services.router.command(call.session, Command.LOGOUT)
    return await _dto(services, item)


async def _runs(services: Services, item: Object) -> bool:
    status = translation.status_of(item, await services.router.state(item))
    return item["spec"].get("state") == "Running" and status is not WahaStatus.STOPPED


async def _dto(services: Services, item: Object) -> SessionDTO:
    return translation.to_dto(item, await services.router.state(item))
