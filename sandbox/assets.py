"""A real control plane from a directory of binaries, as envtest's `KUBEBUILDER_ASSETS`.

Owns etcd, kube-apiserver and, where they are there, kube-controller-manager and kube-scheduler: their certificates,
flags, ports, start and end. Pods need a pod runner besides (`sandbox.kubelet`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import trustme
import yaml

from kubeclient import KubeClient, NotFoundError, path_of
from sandbox.kube.auth import MASTERS
from sandbox.kube.clients import connect
from sandbox.kube.scheduler import Scheduler
from sandbox.kubelet.logs import ContainerLog, LogQuery, read_file
from sandbox.kubelet.process import ContainerProcess, StartError

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)
ENVIRONMENT: Final = "KUBEBUILDER_ASSETS"
_REQUIRED: Final = ("etcd", "kube-apiserver")
_HOST: Final = "127.0.0.1"
_SERVICES: Final = "10.96.0.0/16"
_START_SECONDS: Final = 90
_STOP_SECONDS: Final = 15
_POLL_SECONDS: Final = 0.2
_TAIL_LINES: Final = 15


class AssetsError(Exception):
    """The control plane cannot be started, or did not come up; the text says what is missing or what it said last."""


def assets_from_environment() -> Path | None:
    """The directory that `KUBEBUILDER_ASSETS` names, where it names one."""
    value = os.environ.get(ENVIRONMENT)
    return Path(value) if value else None


def _free_ports(count: int) -> list[int]:
    """Ports that are free now. All are held until all are found, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind((_HOST, 0))
        return [int(item.getsockname()[1]) for item in sockets]


class _Credentials:
    """Certificates and keys of a control plane, written below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA(organization_name="sandbox")
        self._front_authority = trustme.CA(organization_name="sandbox front proxy")
        self.ca = self._write("ca.crt", self._authority.cert_pem)
        self.front_ca = self._write("front-ca.crt", self._front_authority.cert_pem)
        server = self._authority.issue_cert(
            _HOST, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1"
        )
        self.server_cert, self.server_key = self._pair("apiserver", server)
        # Any key serves to sign tokens; the certificate that comes with it is not used.
        _, self.token_key = self._pair("tokens", self._authority.issue_cert("tokens"))
        self.kubelet_client = self._client("kubelet-client", "kube-apiserver-kubelet-client", MASTERS)
        front = self._front_authority.issue_cert("front-proxy-client", common_name="front-proxy-client")
        self.front_client = self._pair("front-proxy-client", front)

    def _write(self, name: str, blob: trustme.Blob) -> Path:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_bytes(blob.bytes())
        return path

    def _pair(self, name: str, certificate: trustme.LeafCert) -> tuple[Path, Path]:
        return (
            self._write(f"{name}.crt", certificate.cert_chain_pems[0]),
            self._write(f"{name}.key", certificate.private_key_pem),
        )

    def _client(self, name: str, user: str, group: str) -> tuple[Path, Path]:
        # Go refuses certificates without any subject alternative name, hence the first argument.
        certificate = self._authority.issue_cert("client", common_name=user, organization_name=group)
        return self._pair(name, certificate)

    def kubeconfig(self, path: Path, url: str, user: str, group: str = MASTERS) -> Path:
        """Write a kubeconfig for a user with a certificate of its own."""
        certificate, key = self._client(path.stem, user, group)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": {"server": url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": user, "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
            "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user}}],
            "current-context": "sandbox",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def ssl_context(self) -> ssl.SSLContext:
        """For our own requests, as an administrator."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(*self.kubelet_client)
        return context


class ControlPlane:
    """A control plane. Use it as an async context manager, or call `start` and `aclose`."""

    def __init__(self, assets: Path, work: Path, *, flags: Mapping[str, Sequence[str]] | None = None) -> None:
        """Prepare a control plane.

        Args:
            assets: Directory of the binaries.
            work: Directory for data, certificates and logs; made where it is missing, never removed.
            flags: Further flags by the name of the binary, after ours, so that they win.
        """
        self._assets = assets
        self._work = work
        self._flags = flags or {}
        self._processes: dict[str, ContainerProcess] = {}
        self._scheduler: asyncio.Task[None] | None = None
        self._client: KubeClient | None = None
        self.url = ""
        self.kubeconfig = work / "admin.kubeconfig"
        """For an administrator; exists once started."""

    @property
    def missing(self) -> list[str]:
        """Sentences on what this control plane lacks, for people."""
        found = []
        if not self._has("kube-controller-manager"):
            found.append(
                "There is no kube-controller-manager in the assets: no garbage collection, no HPA, no Deployments or "
                "Jobs, no default service accounts (so no pods without one of their own), and deleted namespaces stay."
            )
        if not self._has("kube-scheduler"):
            found.append("There is no kube-scheduler in the assets: the sandbox's own trivial scheduler places pods.")
        return found

    def _has(self, name: str) -> bool:
        return (self._assets / name).is_file()

    async def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises:
            AssetsError: A binary is missing, or something ended or did not become ready in time.
        """
        lacking = [name for name in _REQUIRED if not self._has(name)]
        if lacking:
            raise AssetsError(
                f"{self._assets} has no {' and no '.join(lacking)}; set {ENVIRONMENT} to a directory with them"
            )
        for sentence in self.missing:
            _LOG.warning("%s", sentence)
        client_port, peer_port, api_port, manager_port, scheduler_port = _free_ports(5)
        credentials = _Credentials(self._work / "pki")
        self.url = f"https://{_HOST}:{api_port}"
        etcd_url = f"http://{_HOST}:{client_port}"
        await self._run(
            "etcd",
            f"--data-dir={self._work / 'etcd'}",
            f"--listen-client-urls={etcd_url}",
            f"--advertise-client-urls={etcd_url}",
            f"--listen-peer-urls=http://{_HOST}:{peer_port}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        await self._run("kube-apiserver", *_api_flags(credentials, etcd_url, api_port))
        await self._wait_until_ready(credentials)
        credentials.kubeconfig(self.kubeconfig, self.url, "admin")
        self._client = await connect(self.kubeconfig)
        if self._has("kube-controller-manager"):
            config = credentials.kubeconfig(
                self._work / "controller-manager.kubeconfig", self.url, "system:kube-controller-manager"
            )
            await self._run("kube-controller-manager", *_manager_flags(credentials, config, manager_port))
            await self._wait_for_default_account()
        if self._has("kube-scheduler"):
            config = credentials.kubeconfig(self._work / "scheduler.kubeconfig", self.url, "system:kube-scheduler")
            await self._run("kube-scheduler", *_component_flags(config, scheduler_port))
        else:
            self._scheduler = asyncio.create_task(Scheduler(self._client).run())

    async def aclose(self) -> None:
        """Stop everything, the last started first; leaves no process behind."""
        if self._scheduler is not None:
            self._scheduler.cancel()
            await asyncio.gather(self._scheduler, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
        while self._processes:
            _, process = self._processes.popitem()
            await process.stop(_STOP_SECONDS)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _log_path(self, name: str) -> Path:
        return self._work / "logs" / f"{name}.log"

    async def _run(self, name: str, *flags: str) -> None:
        argv = [str(self._assets / name), *flags, *self._flags.get(name, ())]
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self._work)}
        self._work.mkdir(parents=True, exist_ok=True)
        try:
            process = await ContainerProcess.start(argv, environment, self._work, ContainerLog(self._log_path(name)))
        except StartError as error:
            raise AssetsError(f"{argv[0]} cannot be started: {error}") from error
        self._processes[name] = process

    async def _wait_until_ready(self, credentials: _Credentials) -> None:
        last = "no answer"
        connector = aiohttp.TCPConnector(ssl=credentials.ssl_context(), force_close=True)
        loop = asyncio.get_running_loop()
        end = loop.time() + _START_SECONDS
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session:
            while loop.time() < end:
                await self._check_alive()
                try:
                    async with session.get(f"{self.url}/readyz?verbose") as response:
                        last = (await response.text()).strip()
                        if response.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError) as error:
                    last = str(error)
                await asyncio.sleep(_POLL_SECONDS)
        tail = await self._tail("kube-apiserver")
        raise AssetsError(f"kube-apiserver was not ready after {_START_SECONDS} s: {last}\n{tail}")

    async def _wait_for_default_account(self) -> None:
        """Pods can be made once the controllers have given the default namespace its service account."""
        assert self._client is not None
        loop = asyncio.get_running_loop()
        end = loop.time() + _START_SECONDS
        path = path_of("v1", "serviceaccounts", namespace="default", name="default")
        while loop.time() < end:
            await self._check_alive()
            try:
                await self._client.get(path)
            except NotFoundError:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return
        tail = await self._tail("kube-controller-manager")
        raise AssetsError(f"kube-controller-manager made no default service account in {_START_SECONDS} s:\n{tail}")

    async def _check_alive(self) -> None:
        for name, process in self._processes.items():
            if process.ended.done():
                ended = process.ended.result()
                tail = await self._tail(name)
                raise AssetsError(
                    f"{name} ended with exit code {ended.code} while it was started; its last words:\n{tail}"
                )

    async def _tail(self, name: str) -> str:
        lines = [line async for line in read_file(self._log_path(name), LogQuery(tail=_TAIL_LINES))]
        return b"".join(lines).decode(errors="replace").rstrip()


def _api_flags(credentials: _Credentials, etcd_url: str, port: int) -> list[str]:
    return [
        f"--etcd-servers={etcd_url}",
        f"--bind-address={_HOST}",
        f"--secure-port={port}",
        f"--tls-cert-file={credentials.server_cert}",
        f"--tls-private-key-file={credentials.server_key}",
        f"--client-ca-file={credentials.ca}",
        "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={_SERVICES}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={credentials.token_key}",
        f"--service-account-signing-key-file={credentials.token_key}",
        f"--kubelet-client-certificate={credentials.kubelet_client[0]}",
        f"--kubelet-client-key={credentials.kubelet_client[1]}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={credentials.front_ca}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={credentials.front_client[0]}",
        f"--proxy-client-key-file={credentials.front_client[1]}",
        # Other API servers are reached through services that lead to loopback by name; endpoints must not.
        "--enable-aggregator-routing=false",
        # The server would write its own address into the endpoints of its service, and loopback is not allowed there.
        "--endpoint-reconciler-type=none",
        "--allow-privileged=true",
        "--profiling=false",
    ]


def _component_flags(kubeconfig: Path, port: int) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={_HOST}",
        f"--secure-port={port}",
        "--leader-elect=false",
        "--profiling=false",
    ]


def _manager_flags(credentials: _Credentials, kubeconfig: Path, port: int) -> list[str]:
    return [
        *_component_flags(kubeconfig, port),
        f"--service-account-private-key-file={credentials.token_key}",
        f"--root-ca-file={credentials.ca}",
        f"--requestheader-client-ca-file={credentials.front_ca}",
        f"--service-cluster-ip-range={_SERVICES}",
        "--use-service-account-credentials=true",
    ]
