"""API keys."""

from __future__ import annotations

from gateway.keys import Scope
from gateway.models import ApiKeyDTO, ApiKeyRequest, KeyPath, ScopedApiKeyRequest, SessionActionsDTO
from gateway.operations import Call, Operations
from gateway.services import Services

OPERATIONS = Operations("🔑 Api Keys")

_MEDIA = SessionActionsDTO(read=True, send=False, control=False, setting=False, app=False, delete=False)
_CONTROL = SessionActionsDTO(read=True, send=False, control=True, setting=True, app=False, delete=False)


@OPERATIONS.route(
    "POST", "/api/keys", "ApiKeysController_create", body=ApiKeyRequest, result=ApiKeyDTO, scope=Scope.ADMIN
)
async def create_key(services: Services, call: Call) -> ApiKeyDTO:
    """Create a new API key."""
    return await services.keys.create(call.body)


@OPERATIONS.route("GET", "/api/keys", "ApiKeysController_list", result=list[ApiKeyDTO], scope=Scope.ADMIN)
async def list_keys(services: Services, _call: Call) -> list[ApiKeyDTO]:
    """Get all API keys."""
    return [key.shown() for key in await services.keys.all()]


@OPERATIONS.route(
    "POST", "/api/keys/media", "ApiKeysController_media", body=ScopedApiKeyRequest, result=ApiKeyDTO, scope=Scope.ADMIN
)
async def create_media_key(services: Services, call: Call) -> ApiKeyDTO:
    """Create a key that only reads a session, for those who show its files."""
    return await services.keys.create(ApiKeyRequest(session=call.body.session, actions=_MEDIA))


@OPERATIONS.route(
    "POST", "/api/keys/control", "ApiKeysController_control",
    body=ScopedApiKeyRequest, result=ApiKeyDTO, scope=Scope.ADMIN,
)  # fmt: skip
async def create_control_key(services: Services, call: Call) -> ApiKeyDTO:
    """Create a key that controls a session, for those who pair it."""
    return await services.keys.create(ApiKeyRequest(session=call.body.session, actions=_CONTROL))


@OPERATIONS.route(
    "PUT", "/api/keys/{id}", "ApiKeysController_update",
    where=KeyPath, body=ApiKeyRequest, result=ApiKeyDTO, scope=Scope.ADMIN,
)  # fmt: skip
async def update_key(services: Services, call: Call) -> ApiKeyDTO:
    """Update an API key."""
    return await services.keys.update(call.where.id, call.body)


@OPERATIONS.route("DELETE", "/api/keys/{id}", "ApiKeysController_delete", where=KeyPath, scope=Scope.ADMIN)
async def delete_key(services: Services, call: Call) -> None:
    """Delete an API key."""
    await services.keys.delete(call.where.id)
