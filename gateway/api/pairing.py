"""Pairing: QR codes and pairing codes."""

from __future__ import annotations

import base64
import io

import segno
from aiohttp import web

from gateway import translation
from gateway.errors import BusyError, StatusError
from gateway.keys import Scope
from gateway.models import Base64File, PairingCode, QRCodeValue, QrQuery, RequestCodeRequest
from gateway.operations import PNG, Call, Operations
from gateway.services import Services
from session_worker.contract import Command, PairingMethod, WahaStatus

OPERATIONS = Operations("📱 Pairing")

CODE_WAIT = 5.0
"""Seconds to wait for the next code when one has just expired."""


@OPERATIONS.route(
    "GET", "/api/{session}/auth/qr", "AuthController_getQR",
    query=QrQuery, result=Base64File | QRCodeValue, media_types=(PNG,), scope=Scope.CONTROL,
)  # fmt: skip
async def get_qr(services: Services, call: Call) -> web.Response | Base64File | QRCodeValue:
    """Get QR code for pairing WhatsApp API."""
    item = await services.store.get(call.session)
    status = translation.status_of(item, await services.router.state(item))
    if status is not WahaStatus.SCAN_QR_CODE:
        raise StatusError(call.session, status, [WahaStatus.SCAN_QR_CODE])
    offer = await services.router.offer(item, CODE_WAIT)
    if offer is None or offer.method is not PairingMethod.QR_CODE:
        raise BusyError("WhatsApp has not given a QR code yet", retry_after=2)
    if call.query.format == "raw":
        return QRCodeValue(value=offer.code)
    image = draw(offer.code)
    # WAHA compares the header as a whole: */* gets the picture, n8n's application/json the JSON.
    if call.request.headers.get("Accept") == "application/json":
        return Base64File(mimetype="image/png", data=base64.b64encode(image).decode())
    return web.Response(body=image, content_type="image/png", headers={"Cache-Control": "no-store"})


def draw(code: str) -> bytes:
    """A QR code as a PNG picture that phones can scan from a screen."""
    picture = io.BytesIO()
    segno.make_qr(code, error="l").save(picture, kind="png", scale=6, border=4)
    return picture.getvalue()


@OPERATIONS.route(
    "POST", "/api/{session}/auth/request-code", "AuthController_requestCode",
    body=RequestCodeRequest, result=PairingCode, scope=Scope.CONTROL,
)  # fmt: skip
async def request_code(services: Services, call: Call) -> PairingCode:
    """Request authentication code."""
    asked: RequestCodeRequest = call.body
    params = {"phoneNumber": asked.phoneNumber.lstrip("+")}
    found = await services.router.command(call.session, Command.REQUEST_CODE, params)
    code = str(found["code"]).replace("-", "")
    return PairingCode(code=f"{code[:4]}-{code[4:]}")


_NO_PASSKEYS = "WhatsApp Web asks for passkeys only in ways that wa-js does not show"
_PASSKEY = "/api/{session}/auth/passkey"
OPERATIONS.absent("GET", f"{_PASSKEY}/challenge", "AuthController_getPasskeyChallenge",
                  "Get the passkey challenge", _NO_PASSKEYS)  # fmt: skip
OPERATIONS.absent("POST", _PASSKEY, "AuthController_submitPasskey", "Submit the passkey assertion", _NO_PASSKEYS)
OPERATIONS.absent("GET", f"{_PASSKEY}/confirmation", "AuthController_getPasskeyConfirmation",
                  "Get the passkey confirmation code", _NO_PASSKEYS)  # fmt: skip
OPERATIONS.absent("POST", f"{_PASSKEY}/confirm", "AuthController_confirmPasskey", "Confirm the passkey", _NO_PASSKEYS)
OPERATIONS.absent("GET", "/api/screenshot", "ScreenshotController_screenshot",
                  "Get a screenshot of the current WhatsApp session", "workers give no pictures of pages")  # fmt: skip
