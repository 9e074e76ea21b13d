"""The HTTP side of the API: requests in, answers out.

Owns authentication headers, media types, status codes and streams. What requests mean is in `api.py` and its
neighbours.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import yaml
from aiohttp import web
from multidict import CIMultiDict

from sandbox.kube import discovery, protobuf, subresources, tables
from sandbox.kube.aggregation import Aggregator
from sandbox.kube.api import Api, PatchType, accepted_patches
from sandbox.kube.auth import ANONYMOUS_IDENTITY, Attributes, Authenticator, Authorizer, Identity
from sandbox.kube.errors import (
    ApiError,
    bad_request,
    forbidden,
    internal_error,
    method_not_allowed,
    no_such_path,
    not_found,
    unauthorized,
    unsupported_media_type,
)
from sandbox.kube.openapi import PROTOBUF, PROTOBUF_OF_OLD, OpenApi
from sandbox.kube.options import WriteOptions, delete_options, write_options
from sandbox.kube.proxy import Proxy, log_url, node_url, pod_url, service_url
from sandbox.kube.reading import Target, encode_json
from sandbox.kube.requests import OFFERED, RequestInfo, Wanted, list_options, negotiate, parse_path
from sandbox.kube.resources import Resource
from sandbox.kube.store import Stored
from sandbox.kube.strategy import manager_required, unsupported_verb
from sandbox.kube.watching import Form, Watch

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)
_MAX_BODY: Final = 3 * 1024 * 1024
_MIN_WATCH_SECONDS: Final = 1800
"""A watch without a timeout of its own ends after this long to twice as long, to spread the clients' reconnects."""
_HEALTH: Final = ("/healthz", "/livez", "/readyz")
_SUBRESOURCE_MODELS: Final = {"eviction": "V1Eviction", "token": "AuthenticationV1TokenRequest"}
_PATCH_KINDS: Final = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions"}


class Server:
    """Answers requests on an `Api`."""

    def __init__(
        self,
        api: Api,
        authenticator: Authenticator,
        authorizer: Authorizer,
        *,
        bookmark_seconds: float,
        anonymous: bool = True,
    ) -> None:
        self._api = api
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._bookmark_seconds = bookmark_seconds
        self._anonymous = anonymous
        self._openapi = OpenApi(api.catalog)
        self._proxy = Proxy()
        self.aggregator = Aggregator(api, self._proxy)
        self._streams: set[asyncio.Task[Any]] = set()
        self.address = ""
        """`host:port`, once it is known."""

    async def aclose(self) -> None:
        """End all streams and connections."""
        streams = list(self._streams)
        for task in streams:
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        await self.aggregator.aclose()
        await self._proxy.aclose()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._answer(request)
        except ApiError as error:
            return _json(error.status(), error.code, headers=error.headers)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:  # noqa: BLE001  # a defect must fail its request with a 500 and a log, not end the connection
            _LOG.exception("request failed: %s %s", request.method, request.path)
            failure = internal_error(f"{request.method} {request.path} failed; the server's log says why")
            return _json(failure.status(), failure.code)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        identity = self._identify(request)
        info = parse_path(request.method, request.path, request.query)
        if (backend := self.aggregator.backend(request.path)) is not None:
            plain = Attributes(request.method.lower(), path=request.path)
            self._authorize(identity, info.attributes() if info else plain)
            return await self.aggregator.forward(request, backend, identity)
        if info is None:
            self._authorize(identity, Attributes(request.method.lower(), path=request.path))
            return self._document(request)
        attributes = info.attributes()
        self._authorize(identity, attributes)
        resource = self._api.catalog.find(info.group, info.version, info.plural)
        if resource is None:
            return self._no_resource(info)
        if info.namespace and not resource.namespaced and resource.plural != "namespaces":
            return self._no_resource(info)
        if info.subresource:
            return await self._subresource(request, info, resource, identity)
        if info.verb not in resource.verbs:
            raise method_not_allowed()
        if info.verb in {"create", "update", "patch"} and bool(info.name) is (info.verb == "create"):
            # A collection is not updated and an object not created under its own path; a custom one oddly is.
            if not resource.custom:
                raise method_not_allowed()
            if info.verb != "create":
                raise bad_request("name must be provided")
        return await self._verb(request, info, resource, identity)

    # --- Who ----------------------------------------------------------------------------------------------------------

    def _identify(self, request: web.BaseRequest) -> Identity:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        identity: Identity | None = None
        if scheme.lower() == "bearer" and token:
            found = self._authenticator.by_token(token.strip())
            if found is None:
                raise unauthorized()
            identity = found[0]
        elif request.transport is not None:
            identity = self._authenticator.by_certificate(request.transport.get_extra_info("peercert"))
        if identity is None:
            if not self._anonymous:
                raise unauthorized()
            identity = ANONYMOUS_IDENTITY
        wanted = request.headers.get("Impersonate-User")
        return self._impersonate(identity, wanted, request.headers) if wanted else identity

    def _impersonate(self, identity: Identity, user: str, headers: Mapping[str, str]) -> Identity:
        groups = headers.getall("Impersonate-Group", []) if isinstance(headers, CIMultiDict) else []
        parts = user.split(":")
        if user.startswith("system:serviceaccount:") and len(parts) == 4:
            asked = Attributes("impersonate", "", "serviceaccounts", namespace=parts[2], name=parts[3])
            groups = groups or ["system:serviceaccounts", f"system:serviceaccounts:{parts[2]}"]
        else:
            asked = Attributes("impersonate", "", "users", name=user)
        self._authorize(identity, asked)
        for group in groups:
            if not group.startswith("system:serviceaccounts"):
                self._authorize(identity, Attributes("impersonate", "", "groups", name=group))
        return Identity(user, (*groups, "system:authenticated"))

    def _authorize(self, identity: Identity, asked: Attributes) -> None:
        allowed, _ = self._authorizer.allows(identity, asked)
        if allowed:
            return
        if identity is ANONYMOUS_IDENTITY and not self._anonymous:
            raise unauthorized()
        why = asked.refusal(identity.user)
        if asked.path:
            raise ApiError(403, "Forbidden", f"forbidden: {why}", {})
        raise forbidden(asked.group, asked.resource, asked.name, why)

    # --- Documents ----------------------------------------------------------------------------------------------------

    def _no_resource(self, info: RequestInfo) -> web.Response:
        versions = self._api.catalog.groups().get(info.group)
        custom = versions is None or any(
            resource.custom
            for version in versions
            for resource in self._api.catalog.in_group_version(info.group, version)
        )
        if custom:
            return web.Response(status=404, text="404 page not found\n")
        raise no_such_path()

    def _document(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed()
        path = request.path.rstrip("/") or "/"
        catalog = self._api.catalog
        parts = [part for part in path.split("/") if part]
        if path.startswith(_HEALTH):
            return self._health(request, path)
        if path == "/version":
            return _json(discovery.version())
        if path in {"/api", "/apis"}:
            return self._groups(request, core=path == "/api")
        if parts[:1] == ["openapi"]:
            return self._openapi_document(request, parts[1:])
        found: JsonObject | None = None
        if len(parts) == 2 and parts[0] == "api":
            found = discovery.resource_list(catalog, "", parts[1])
            if found is None:
                raise no_such_path()
        elif len(parts) == 2 and parts[0] == "apis":
            found = discovery.group(catalog, parts[1], self.aggregator.groups())
        elif len(parts) == 3 and parts[0] == "apis":
            found = discovery.resource_list(catalog, parts[1], parts[2])
            if found is None and parts[1] in catalog.groups():
                raise no_such_path()
        elif path == "/":
            found = {"paths": self._paths()}
        return _json(found) if found is not None else web.Response(status=404, text="404 page not found\n")

    def _openapi_document(self, request: web.BaseRequest, parts: list[str]) -> web.Response:
        media_type, body = "application/json", None
        match parts:
            case ["v2"]:
                accepted = request.headers.get("Accept", "")
                binary = PROTOBUF in accepted or PROTOBUF_OF_OLD in accepted
                media_type = PROTOBUF if binary else media_type
                body = self._openapi.v2_protobuf() if binary else self._openapi.v2_json()
            case ["v3"]:
                body = self._openapi.v3_index()
            case ["v3", "api", version]:
                body = self._openapi.v3("", version)
            case ["v3", "apis", group, version]:
                body = self._openapi.v3(group, version)
        if body is None:
            return web.Response(status=404, text="404 page not found\n")
        tag = f'"{self._openapi.etag(body)}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        return web.Response(body=body, headers={"Content-Type": media_type, "ETag": tag})

    def _paths(self) -> list[str]:
        groups = [
            path
            for group, versions in self._api.catalog.groups().items()
            if group
            for path in (f"/apis/{group}", *(f"/apis/{group}/{version}" for version in versions))
        ]
        return sorted(["/api", "/api/v1", "/apis", *groups, *_HEALTH, "/openapi/v2", "/openapi/v3", "/version"])

    @staticmethod
    def _health(request: web.BaseRequest, path: str) -> web.Response:
        if "verbose" in request.query:
            return web.Response(text=f"[+]ping ok\n[+]store ok\n{path.strip('/').split('/')[0]} check passed\n")
        return web.Response(text="ok")

    def _groups(self, request: web.BaseRequest, *, core: bool) -> web.Response:
        for clause in request.headers.get("Accept", "").split(","):
            options = dict(part.strip().partition("=")[::2] for part in clause.split(";")[1:])
            if options.get("as") == "APIGroupDiscoveryList" and options.get("v") in {"v2", "v2beta1"}:
                name = options["v"]
                body = discovery.aggregated(self._api.catalog, core=core, version_name=name)
                body["items"] += [] if core else self._others()
                kind = f"application/json;g=apidiscovery.k8s.io;v={name};as=APIGroupDiscoveryList"
                return _json(body, headers={"Content-Type": kind})
        others = self.aggregator.groups()
        body = discovery.api_versions(self.address) if core else discovery.group_list(self._api.catalog, others)
        return _json(body)

    def _others(self) -> list[JsonObject]:
        """Groups of other servers, for the one-document form."""
        return [
            discovery.foreign_group(group, {name: self.aggregator.resources(group, name) for name in versions})
            for group, versions in self.aggregator.groups().items()
        ]

    # --- Verbs --------------------------------------------------------------------------------------------------------

    async def _verb(
        self, request: web.BaseRequest, info: RequestInfo, resource: Resource, identity: Identity
    ) -> web.StreamResponse:
        namespace = info.namespace if resource.namespaced else ""
        wanted = negotiate(request.headers.get("Accept", ""))
        warnings = _deprecations(resource)
        match info.verb:
            case "get":
                stored = self._api.get(resource, namespace, info.name)
                return self._object(request, resource, stored, wanted, warnings=warnings)
            case "list":
                return self._list(request, resource, namespace, wanted, warnings)
            case "watch":
                return await self._watch(request, resource, namespace, wanted)
            case "deletecollection":
                options = delete_options(request.query, await _optional_body(request))
                page = self._api.delete_collection(resource, namespace, list_options(request.query, resource), options)
                return _json(self._list_body(resource, page.items, {"resourceVersion": str(page.revision)}))
            case "delete":
                options = delete_options(request.query, await _optional_body(request))
                result = self._api.delete(resource, namespace, info.name, options)
                if isinstance(result, Stored):
                    return self._object(request, resource, result, wanted)
                return _json(result)
        return await self._write(request, info, resource, identity, wanted)

    async def _write(
        self, request: web.BaseRequest, info: RequestInfo, resource: Resource, identity: Identity, wanted: Wanted
    ) -> web.StreamResponse:
        options = _write_options(request, identity)
        options.warnings += _deprecations(resource)
        namespace = info.namespace if resource.namespaced else ""
        target = Target(resource, namespace, info.name, info.subresource)
        status = 200
        if info.verb == "create":
            body = await _body(request, resource.model)
            if resource.verbs == ("create",):
                return _json(self._review(resource, identity, namespace, body), 201)
            if resource.namespaced and not namespace:
                raise method_not_allowed()
            stored, status = self._api.create(resource, namespace, body, options), 201
        elif info.verb == "update":
            stored = self._api.update(target, await _body(request, resource.model), options)
        else:
            kind, patch = await _patch_body(request, resource)
            stored, created = self._api.patch(target, kind, patch, options)
            status = 201 if created else 200
        return self._object(request, resource, stored, wanted, status=status, warnings=options.warnings)

    def _review(self, resource: Resource, identity: Identity, namespace: str, body: Any) -> JsonObject:
        match resource.kind:
            case "TokenReview":
                return subresources.review_token(self._authenticator, body)
            case "SelfSubjectReview":
                return subresources.review_self(identity)
            case "SelfSubjectRulesReview":
                return subresources.review_rules(self._authorizer, identity, body)
        return subresources.review_access(self._authorizer, resource.kind, identity, namespace, body)

    async def _subresource(
        self, request: web.BaseRequest, info: RequestInfo, resource: Resource, identity: Identity
    ) -> web.StreamResponse:
        known = {item.name: item for item in discovery.subresources_of(resource)}
        found = known.get(info.subresource)
        if found is None:
            return self._no_resource(info)
        if info.verb not in found.verbs:
            raise unsupported_verb(resource, info.verb)
        namespace = info.namespace if resource.namespaced else ""
        target = Target(resource, namespace, info.name, info.subresource)
        if info.subresource in {"log", "proxy"}:
            return await self._forward(request, info)
        if info.verb == "get" and info.subresource != "scale":
            stored = self._api.get(resource, namespace, info.name)
            return self._object(request, resource, stored, negotiate(request.headers.get("Accept", "")))
        if info.subresource == "status":
            wanted = negotiate(request.headers.get("Accept", ""))
            return await self._write(request, info, resource, identity, wanted)
        options = _write_options(request, identity)
        if info.subresource == "scale":
            return await self._scale(request, info, target, options)
        body = await _body(request, _SUBRESOURCE_MODELS.get(info.subresource, resource.model))
        match info.subresource:
            case "binding":
                result = subresources.bind(self._api, target, body, options)
            case "eviction":
                result = subresources.evict(self._api, target, body, options)
            case "finalize":
                return _json(subresources.finalize_namespace(self._api, resource, info.name, body))
            case "token":
                result = subresources.request_token(self._api, self._authenticator, resource, target, body)
            case _:
                raise not_found(resource.group, resource.plural, info.name)
        return _json(result, 201)

    async def _scale(
        self, request: web.BaseRequest, info: RequestInfo, target: Target, options: WriteOptions
    ) -> web.Response:
        if info.verb == "get":
            scale = subresources.get_scale(self._api, target)
        elif info.verb == "update":
            scale = subresources.put_scale(self._api, target, await _body(request), options)
        else:
            kind, patch = await _patch_body(request, target.resource)
            scale = subresources.patch_scale(self._api, target, kind, patch, options)
        wanted = negotiate(request.headers.get("Accept", ""))
        if wanted.transform == "Table":
            scale = self._table(request, tables.scale_columns(), [scale], {})
        return _json(scale, media_type=wanted.media_type, warnings=options.warnings)

    async def _forward(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        store = self._api.store
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            if info.subresource == "log":
                url, parameters = log_url(store, info.namespace, info.name, request.query)
                return await self._proxy.forward(request, url, parameters=parameters)
            match info.plural:
                case "pods":
                    base = pod_url(store, info.namespace, info.name)
                case "services":
                    base = service_url(store, info.namespace, info.name)
                case _:
                    base = node_url(store, info.name)
            return await self._proxy.forward(request, f"{base}/{info.rest}")
        finally:
            self._streams.discard(task)

    # --- Answers ------------------------------------------------------------------------------------------------------

    def _object(
        self,
        request: web.BaseRequest,
        resource: Resource,
        stored: Stored,
        wanted: Wanted,
        *,
        status: int = 200,
        warnings: list[str] | None = None,
    ) -> web.Response:
        headers = _warning_headers(warnings)
        if not wanted.transform and wanted.media_type == "application/json":
            body = self._api.encoded(resource, stored)
            return web.Response(body=body, status=status, headers=headers, content_type="application/json")
        value = self._api.present(resource, stored)
        if wanted.transform == "Table":
            metadata = {"resourceVersion": value["metadata"].get("resourceVersion", "")}
            value = self._table(request, tables.columns_of(resource), [value], metadata)
        elif wanted.transform:
            value = tables.partial_metadata(value)
        return _json(value, status, media_type=wanted.media_type, warnings=warnings)

    def _table(
        self,
        request: web.BaseRequest,
        columns: list[tables.PrintedColumn],
        objects: list[JsonObject],
        metadata: JsonObject,
    ) -> JsonObject:
        include = request.query.get("includeObject", "Metadata")
        return tables.table(columns, tables.rows(columns, objects, datetime.now(UTC), include), metadata)

    def _list(
        self, request: web.BaseRequest, resource: Resource, namespace: str, wanted: Wanted, warnings: list[str]
    ) -> web.Response:
        page = self._api.select(resource, namespace, list_options(request.query, resource))
        metadata: JsonObject = {"resourceVersion": str(page.revision)}
        if page.continue_token:
            metadata["continue"] = page.continue_token
            if page.remaining is not None:
                metadata["remainingItemCount"] = page.remaining
        if not wanted.transform and wanted.media_type == "application/json":
            head = encode_json({"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": metadata})
            items = b",".join(self._api.encoded(resource, item) for item in page.items)
            body = head[:-1] + b',"items":[' + items + b"]}"
            return web.Response(body=body, headers=_warning_headers(warnings), content_type="application/json")
        if wanted.transform == "Table":
            objects = [self._api.present(resource, item) for item in page.items]
            body_value = self._table(request, tables.columns_of(resource), objects, metadata)
        elif wanted.transform:
            entries = [tables.partial_metadata(self._api.present(resource, item)) for item in page.items]
            body_value = {
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": entries,
            }
        else:
            body_value = self._list_body(resource, page.items, metadata)
        return _json(body_value, media_type=wanted.media_type, warnings=warnings)

    def _list_body(self, resource: Resource, items: list[Stored], metadata: JsonObject) -> JsonObject:
        return {
            "kind": resource.list_kind,
            "apiVersion": resource.api_version,
            "metadata": metadata,
            "items": [self._api.present(resource, item) for item in items],
        }

    async def _watch(
        self, request: web.BaseRequest, resource: Resource, namespace: str, wanted: Wanted
    ) -> web.StreamResponse:
        options = list_options(request.query, resource)
        watch = Watch(self._api, resource, namespace, options, self._form(request, resource, wanted))
        watch.check()
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        await response.prepare(request)
        seconds = float(options.timeout_seconds or random.uniform(_MIN_WATCH_SECONDS, 2 * _MIN_WATCH_SECONDS))  # noqa: S311  # spreads load
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            async for lines in watch.stream(seconds=seconds, bookmark_every=self._bookmark_seconds):
                await response.write(lines)
            await response.write_eof()
        except ConnectionError:
            _LOG.debug("a watcher went away: %s", request.path)
        finally:
            self._streams.discard(task)
        return response

    def _form(self, request: web.BaseRequest, resource: Resource, wanted: Wanted) -> Form:
        api = self._api
        if wanted.transform == "Table":
            columns = tables.columns_of(resource)
            include = request.query.get("includeObject", "Metadata")
            told = False

            def render(stored: Stored) -> bytes:
                nonlocal told
                value = api.present(resource, stored)
                rows = tables.rows(columns, [value], datetime.now(UTC), include)
                metadata = {"resourceVersion": value["metadata"].get("resourceVersion", "")}
                # The columns come with the first event only, as from the real server.
                table = tables.table([] if told else columns, rows, metadata)
                told = True
                return encode_json(table)

            # Ages are part of the rows, so these events are not shared for long; the key keeps requests apart.
            return Form(f"table:{include}:{datetime.now(UTC).timestamp()}", render)
        if wanted.transform:
            return Form("partial", lambda stored: encode_json(tables.partial_metadata(api.present(resource, stored))))
        return Form("json", lambda stored: api.encoded(resource, stored))


# --- Parts of requests and answers ------------------------------------------------------------------------------------


def _json(
    value: Any,
    status: int = 200,
    *,
    media_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
    warnings: list[str] | None = None,
) -> web.Response:
    all_headers = _warning_headers(warnings)
    all_headers.extend(headers or {})
    all_headers.setdefault("Content-Type", media_type)
    body = yaml.safe_dump(value).encode() if media_type == "application/yaml" else encode_json(value)
    return web.Response(body=body, status=status, headers=all_headers)


def _warning_headers(warnings: list[str] | None) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for text in dict.fromkeys(warnings or ()):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        headers.add("Warning", f'299 - "{escaped}"')
    return headers


def _deprecations(resource: Resource) -> list[str]:
    if resource.group == "" and resource.plural == "endpoints":
        return ["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"]
    return []


def _write_options(request: web.BaseRequest, identity: Identity) -> WriteOptions:
    return write_options(
        request.query,
        kind=_PATCH_KINDS.get(request.method, "CreateOptions"),
        user=identity.user,
        user_agent=request.headers.get("User-Agent", ""),
    )


def _media_type(request: web.BaseRequest) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def _read(request: web.BaseRequest) -> bytes:
    body = await request.read()
    if len(body) > _MAX_BODY:
        raise ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {_MAX_BODY}", {})
    return body


def _parse(text: bytes, what: str, *, as_yaml: bool) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if not as_yaml:
            raise bad_request(f"error decoding {what}: {error}") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise bad_request(f"error decoding YAML: {error}") from None


async def _body(request: web.BaseRequest, model: str = "") -> Any:
    """The body; `model` names what a protobuf body holds, where one is taken."""
    media_type = _media_type(request)
    if model and media_type == protobuf.MEDIA_TYPE:
        return protobuf.decode(await _read(request), model)
    if media_type not in {"", *OFFERED}:
        raise unsupported_media_type(media_type, OFFERED)
    return _parse(await _read(request), "body", as_yaml=media_type == "application/yaml")


async def _optional_body(request: web.BaseRequest) -> JsonObject | None:
    if not request.can_read_body:
        return None
    text = await _read(request)
    if not text.strip():
        return None
    if _media_type(request) == protobuf.MEDIA_TYPE:
        return protobuf.decode(text, "V1DeleteOptions")
    body = _parse(text, "body", as_yaml=_media_type(request) == "application/yaml")
    if not isinstance(body, dict):
        raise bad_request("couldn't get version/kind: DeleteOptions is an object")
    return body


async def _patch_body(request: web.BaseRequest, resource: Resource) -> tuple[str, Any]:
    kind = _media_type(request)
    if kind not in accepted_patches(resource):
        raise unsupported_media_type(kind, accepted_patches(resource))
    if kind == PatchType.APPLY and not request.query.get("fieldManager"):
        raise manager_required()
    return kind, _parse(await _read(request), "patch", as_yaml=kind == PatchType.APPLY)
