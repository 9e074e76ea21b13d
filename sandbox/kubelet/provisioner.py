"""Binds PersistentVolumeClaims to directories.

Owns the PersistentVolume of each claim and the directory behind it, which goes when the claim is deleted and its
volume's policy is Delete. All access modes are granted, because all pods run on one machine.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any, Final

from kubeclient import ConflictError, KubeClient, KubernetesError, NotFoundError, PatchKind, path_of
from sandbox.kube.clients import Cache, key_of

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)
_ANNOTATION: Final = "pv.kubernetes.io/provisioned-by"
_NAME: Final = "sandbox"
_RETRY_SECONDS: Final = 1.0


class Provisioner:
    """Runs until cancelled."""

    def __init__(self, client: KubeClient, directory: Path) -> None:
        self._client = client
        self._directory = directory
        self._wake = asyncio.Event()
        self._claims = Cache(client, path_of("v1", "persistentvolumeclaims"), self._changed)
        self._volumes = Cache(client, path_of("v1", "persistentvolumes"), self._changed)

    def _changed(self, _key: object) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Bind and release until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._claims.run())
            tasks.create_task(self._volumes.run())
            await self._claims.synced.wait()
            await self._volumes.synced.wait()
            while True:
                self._wake.clear()
                try:
                    await self._round()
                except KubernetesError as error:
                    _LOG.info("claims not bound: %s; trying again", error.message)
                    asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._wake.set)
                await self._wake.wait()

    async def _round(self) -> None:
        for claim in list(self._claims.objects.values()):
            if (claim.get("status") or {}).get("phase") != "Bound" and not claim["metadata"].get("deletionTimestamp"):
                await self._bind(claim)
        uids = {claim["metadata"]["uid"] for claim in self._claims.objects.values()}
        for volume in list(self._volumes.objects.values()):
            ours = (volume["metadata"].get("annotations") or {}).get(_ANNOTATION) == _NAME
            owner = volume["spec"].get("claimRef") or {}
            if ours and owner.get("uid") not in uids:
                await self._release(volume)

    async def _bind(self, claim: JsonObject) -> None:
        namespace, name = key_of(claim)
        spec, uid = claim["spec"], claim["metadata"]["uid"]
        volume_name = spec.get("volumeName") or f"pvc-{uid}"
        directory = self._directory / namespace / name
        directory.mkdir(parents=True, exist_ok=True)
        capacity = {"storage": spec["resources"]["requests"]["storage"]}
        modes = spec["accessModes"]
        if (volume_name not in {key[1] for key in self._volumes.objects}) and not spec.get("volumeName"):
            body = {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": volume_name, "annotations": {_ANNOTATION: _NAME}},
                "spec": {
                    "capacity": capacity,
                    "accessModes": modes,
                    "persistentVolumeReclaimPolicy": "Delete",
                    "storageClassName": spec.get("storageClassName") or "",
                    "hostPath": {"path": str(directory)},
                    "claimRef": {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": namespace,
                        "name": name,
                        "uid": uid,
                    },
                },
            }
            try:
                await self._client.create(path_of("v1", "persistentvolumes"), body)
            except ConflictError:
                _LOG.debug("volume %s exists already", volume_name)
        path = path_of("v1", "persistentvolumeclaims", namespace=namespace, name=name)
        try:
            await self._client.patch(path, {"metadata": {"uid": uid}, "spec": {"volumeName": volume_name}})
            status = {"phase": "Bound", "capacity": capacity, "accessModes": modes}
            await self._client.patch(f"{path}/status", {"status": status})
            volume = path_of("v1", "persistentvolumes", name=volume_name, subresource="status")
            await self._client.patch(volume, {"status": {"phase": "Bound"}}, PatchKind.MERGE)
        except NotFoundError:
            return  # The claim was deleted meanwhile.

    async def _release(self, volume: JsonObject) -> None:
        path = path_of("v1", "persistentvolumes", name=volume["metadata"]["name"])
        try:
            await self._client.delete(path)
        except NotFoundError:
            return  # Somebody else was faster.
        if volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete":
            directory = Path((volume["spec"].get("hostPath") or {}).get("path", ""))
            if self._directory in directory.parents:
                shutil.rmtree(directory, ignore_errors=True)
