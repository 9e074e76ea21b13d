"""Volumes as local directories.

Owns what lies in them: the contents of ConfigMaps, Secrets, downward API files and tokens, and the directories of
claims. Everything is written by plain files under the runner's directory; modes and read-only mounts are kept for files
only.
"""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from kubeclient import KubeClient, NotFoundError, path_of
from sandbox.kube.admission import TOKEN_PATH
from sandbox.kube.formats import parse_time
from sandbox.kubelet.environment import ConfigError, Sources, Surroundings, field_value, resource_value

JsonObject = dict[str, Any]

_SUPPORTED: Final = ("emptyDir", "secret", "configMap", "downwardAPI", "projected", "persistentVolumeClaim")
_API_ACCESS: Final = "kube-api-access-"
"""Volumes that the API server adds by itself. Distributions put certificates of theirs into them, published by
controllers that are not there on a laptop; such a source is left out instead of holding the pod up for ever."""
_TOKEN_SHARE: Final = 0.8
"""A token is renewed when this share of its life is over."""


class MountError(Exception):
    """A volume cannot be set up yet; the text is that of the FailedMount event."""


def referenced(pod: JsonObject) -> tuple[set[str], set[str]]:
    """Names of the ConfigMaps and Secrets that a pod refers to."""
    config_maps: set[str] = set()
    secrets: set[str] = set()
    spec = pod["spec"]
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        for variable in container.get("env") or []:
            source = variable.get("valueFrom") or {}
            config_maps.add((source.get("configMapKeyRef") or {}).get("name", ""))
            secrets.add((source.get("secretKeyRef") or {}).get("name", ""))
        for entry in container.get("envFrom") or []:
            config_maps.add((entry.get("configMapRef") or {}).get("name", ""))
            secrets.add((entry.get("secretRef") or {}).get("name", ""))
    for volume in spec.get("volumes") or []:
        for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
            config_maps.add((source.get("configMap") or {}).get("name", ""))
            secret = source.get("secret") or {}
            secrets.add(secret.get("secretName") or secret.get("name") or "")
    return config_maps - {""}, secrets - {""}


async def fetch_sources(client: KubeClient, pod: JsonObject) -> Sources:
    """The ConfigMaps and Secrets that a pod refers to and that exist."""
    namespace = pod["metadata"]["namespace"]
    config_maps, secrets = referenced(pod)
    found_maps: dict[str, Mapping[str, bytes]] = {}
    found_secrets: dict[str, Mapping[str, bytes]] = {}
    for name in sorted(config_maps):
        try:
            obj = await client.get(path_of("v1", "configmaps", namespace=namespace, name=name))
        except NotFoundError:
            continue  # Whether that matters is decided where it is used.
        binary = {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}
        found_maps[name] = {**{key: text.encode() for key, text in (obj.get("data") or {}).items()}, **binary}
    for name in sorted(secrets):
        try:
            obj = await client.get(path_of("v1", "secrets", namespace=namespace, name=name))
        except NotFoundError:
            continue  # As above.
        found_secrets[name] = {key: base64.b64decode(value) for key, value in (obj.get("data") or {}).items()}
    return Sources(found_maps, found_secrets)


Files = dict[str, tuple[bytes, int]]
"""Relative path: content and mode."""


def _selected(
    contents: Mapping[str, bytes], source: JsonObject, mode: int, what: str
) -> Iterator[tuple[str, bytes, int]]:
    items = source.get("items")
    if items is None:
        yield from ((key, value, mode) for key, value in contents.items())
        return
    for item in items:
        if item["key"] in contents:
            yield item["path"], contents[item["key"]], item.get("mode", mode)
        elif not source.get("optional"):
            raise MountError(f"references non-existent {what} key: {item['key']}")


class Volumes:
    """The volumes of one pod under `directory`; claims lie under `claims`, one directory each."""

    def __init__(
        self, client: KubeClient, pod: JsonObject, directory: Path, claims: Path, surroundings: Surroundings
    ) -> None:
        self._client = client
        self._pod = pod
        self._directory = directory
        self._claims = claims
        self._surroundings = surroundings
        self._tokens: dict[str, tuple[str, datetime]] = {}

    async def set_up(self, sources: Sources) -> dict[str, Path]:
        """Write all volumes, or bring them up to date; the directory of each.

        Raises:
            MountError: Something that a volume needs is not there yet.
        """
        found: dict[str, Path] = {}
        for volume in self._pod["spec"].get("volumes") or []:
            name = volume["name"]
            found[name] = await self._claim(volume) or self._directory / name
            found[name].mkdir(parents=True, exist_ok=True)
            try:
                files = await self._files(volume, sources)
            except MountError as error:
                raise MountError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error
            if files is not None:
                _write(found[name], files)
        return found

    def remove(self) -> None:
        """Remove everything but the claims."""
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _claim(self, volume: JsonObject) -> Path | None:
        if (reference := volume.get("persistentVolumeClaim")) is None:
            return None
        namespace, name = self._pod["metadata"]["namespace"], reference["claimName"]
        path = path_of("v1", "persistentvolumeclaims", namespace=namespace, name=name)
        try:
            claim = await self._client.get(path)
        except NotFoundError:
            raise MountError(f'persistentvolumeclaim "{name}" not found') from None
        if (claim.get("status") or {}).get("phase") != "Bound":
            raise MountError(f'persistentvolumeclaim "{name}" is not bound yet')
        directory: Path = self._claims / namespace / name
        return directory

    async def _files(self, volume: JsonObject, sources: Sources) -> Files | None:
        """The files of a volume that is written by the runner; nothing for one that containers write."""
        if "emptyDir" in volume or "persistentVolumeClaim" in volume:
            return None
        if (projected := volume.get("projected")) is not None:
            files: Files = {}
            mode = projected.get("defaultMode", 0o644)
            for source in projected.get("sources") or []:
                try:
                    files.update(await self._source(source, sources, mode))
                except MountError:
                    if not volume["name"].startswith(_API_ACCESS) or "configMap" not in source:
                        raise
            return files
        kind = next((kind for kind in _SUPPORTED if kind in volume), None)
        if kind is None:
            given = next((key for key in volume if key != "name"), "none")
            raise MountError(
                f"volumes of type {given} are not supported by the pod runner; use one of {', '.join(_SUPPORTED)}"
            )
        source = volume[kind]
        return dict(await self._source({kind: source}, sources, source.get("defaultMode", 0o644)))

    async def _source(self, source: JsonObject, sources: Sources, mode: int) -> Files:
        if (secret := source.get("secret")) is not None:
            name = secret.get("secretName") or secret.get("name") or ""
            return self._contents("secret", name, sources.secrets, secret, mode)
        if (config := source.get("configMap")) is not None:
            return self._contents("configmap", config.get("name", ""), sources.config_maps, config, mode)
        if (downward := source.get("downwardAPI")) is not None:
            return {
                item["path"]: (self._field(item).encode(), item.get("mode", mode))
                for item in downward.get("items") or []
            }
        if (token := source.get("serviceAccountToken")) is not None:
            return {token["path"]: ((await self._token(token)).encode(), 0o600)}
        raise MountError(f"projected sources of type {next(iter(source), 'none')} are not supported by the pod runner")

    def _contents(
        self, kind: str, name: str, known: Mapping[str, Mapping[str, bytes]], source: JsonObject, mode: int
    ) -> Files:
        if name not in known:
            if source.get("optional"):
                return {}
            raise MountError(f'{kind} "{name}" not found')
        return {path: (value, bits) for path, value, bits in _selected(known[name], source, mode, kind)}

    def _field(self, item: JsonObject) -> str:
        try:
            if (reference := item.get("fieldRef")) is not None:
                return field_value(self._pod, reference["fieldPath"], self._surroundings)
            reference = item["resourceFieldRef"]
            return resource_value(self._pod, self._pod["spec"]["containers"][0], reference, self._surroundings)
        except ConfigError as error:
            raise MountError(str(error)) from error

    async def _token(self, wanted: JsonObject) -> str:
        key = f"{wanted.get('audience', '')} {wanted['path']}"
        token, renew = self._tokens.get(key, ("", datetime.min.replace(tzinfo=UTC)))
        if datetime.now(UTC) < renew:
            return token
        meta, spec = self._pod["metadata"], self._pod["spec"]
        account = spec.get("serviceAccountName") or "default"
        path = path_of("v1", "serviceaccounts", namespace=meta["namespace"], name=account, subresource="token")
        body: JsonObject = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [wanted["audience"]] if wanted.get("audience") else None,
                "expirationSeconds": wanted.get("expirationSeconds", 3600),
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
            },
        }
        now = datetime.now(UTC)
        status = (await self._client.create(path, body))["status"]
        life = parse_time(status["expirationTimestamp"]) - now
        self._tokens[key] = (status["token"], now + life * _TOKEN_SHARE)
        return str(status["token"])


def _write(directory: Path, files: Files) -> None:
    """Make `directory` hold exactly `files`; each file changes at once or not at all."""
    for path, (content, mode) in files.items():
        target = directory / path
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise MountError(f"path {path!r} must be relative and must not contain '..'")
        if target.is_file() and target.read_bytes() == content:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(content)
        Path(file.name).chmod(mode)
        Path(file.name).replace(target)
    for target in [item for item in directory.rglob("*") if item.is_file()]:
        if str(target.relative_to(directory)) not in files:
            target.unlink()


def write_kubeconfig(directory: Path, server: str, places: Mapping[str, Path], namespace: str) -> Path | None:
    """A kubeconfig for a container that has its service account's token mounted; nothing where it has not.

    Programs look for the token at a fixed path, which does not exist without a mount namespace; KUBECONFIG they all
    understand.
    """
    mounted = places.get(TOKEN_PATH)
    if mounted is None:
        return None
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "cluster", "cluster": {"server": server, "certificate-authority": str(mounted / "ca.crt")}}
        ],
        "users": [{"name": "pod", "user": {"tokenFile": str(mounted / "token")}}],
        "contexts": [{"name": "pod", "context": {"cluster": "cluster", "user": "pod", "namespace": namespace}}],
        "current-context": "pod",
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
