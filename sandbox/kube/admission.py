"""What the server adds to new objects, or refuses, because of other objects.

Owns the admission plugins that consumers notice: namespaces, service accounts of pods, priorities, default tolerations,
and the addresses of services. Not there: quotas, limit ranges, webhooks, policies.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable
from typing import Any, Final

from sandbox.kube.errors import bad_request, forbidden, invalid, invalid_value, not_found
from sandbox.kube.resources import Resource
from sandbox.kube.store import Store

JsonObject = dict[str, Any]

NAMESPACES: Final = ("", "namespaces")
SERVICES: Final = ("", "services")
SERVICE_ACCOUNTS: Final = ("", "serviceaccounts")
PRIORITY_CLASSES: Final = ("scheduling.k8s.io", "priorityclasses")

TOKEN_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  # a well-known path, not a secret
_SERVICE_NETWORK: Final = ipaddress.ip_network("10.96.0.0/16")
_NODE_PORTS: Final = range(30000, 32768)
_NAME_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_SYSTEM_NAMESPACES: Final = frozenset({"default", "kube-system", "kube-public"})


def random_suffix() -> str:
    """Five characters that spell no word, as the real server appends to a generateName."""
    return "".join(secrets.choice(_NAME_ALPHABET) for _ in range(5))


def require_namespace(store: Store, resource: Resource, namespace: str, name: str) -> None:
    """Refuse new objects in a namespace that is missing or on its way out.

    Raises:
        ApiError: 404 or 403.
    """
    found = store.get(NAMESPACES, ("", namespace))
    if found is None:
        raise not_found("", "namespaces", namespace)
    if found.value["metadata"].get("deletionTimestamp"):
        raise forbidden(
            resource.group,
            resource.plural,
            name,
            f"unable to create new content in namespace {namespace} because it is being terminated",
            causes=[
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ],
        )


def admit_new_pod(store: Store, pod: JsonObject) -> None:
    """Give a pod its service account with its token, its priority and the tolerations that every pod has.

    Raises:
        ApiError: 403, the service account or priority class does not exist.
    """
    spec = pod["spec"]
    meta = pod["metadata"]
    account_name = spec.get("serviceAccountName") or "default"
    account = store.get(SERVICE_ACCOUNTS, (meta["namespace"], account_name))
    if account is None:
        raise forbidden(
            "",
            "pods",
            meta["name"],
            f"error looking up service account {meta['namespace']}/{account_name}: "
            f'serviceaccount "{account_name}" not found',
        )
    spec["serviceAccountName"] = spec["serviceAccount"] = account_name
    wants_token = spec.get("automountServiceAccountToken", account.value.get("automountServiceAccountToken", True))
    if wants_token:
        _mount_token(spec)
    if not spec.get("imagePullSecrets") and account.value.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account.value["imagePullSecrets"]
    _set_priority(store, spec, meta["name"])
    tolerations = spec["tolerations"] = list(spec.get("tolerations") or [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(item.get("key") in {key, None, ""} and item.get("effect") != "NoSchedule" for item in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})


def _mount_token(spec: JsonObject) -> None:
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    missing = [
        container
        for container in containers
        if all(mount.get("mountPath") != TOKEN_PATH for mount in container.get("volumeMounts") or [])
    ]
    if not missing:
        return
    volume = f"kube-api-access-{random_suffix()}"
    for container in missing:
        mount = {"name": volume, "readOnly": True, "mountPath": TOKEN_PATH}
        container["volumeMounts"] = [*(container.get("volumeMounts") or []), mount]
    field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]
    projected = {"name": volume, "projected": {"sources": sources, "defaultMode": 0o644}}
    spec["volumes"] = [*(spec.get("volumes") or []), projected]


def _set_priority(store: Store, spec: JsonObject, name: str) -> None:
    wanted = spec.get("priorityClassName")
    priority, preemption = 0, "PreemptLowerPriority"
    if wanted:
        found = store.get(PRIORITY_CLASSES, ("", wanted))
        if found is None:
            raise forbidden("", "pods", name, f"no PriorityClass with name {wanted} was found")
        priority, preemption = found.value.get("value", 0), found.value.get("preemptionPolicy", preemption)
    else:
        for stored in store.each(PRIORITY_CLASSES):
            if stored.value.get("globalDefault"):
                priority, spec["priorityClassName"] = stored.value.get("value", 0), stored.value["metadata"]["name"]
    if spec.get("priority") not in {None, priority}:
        text = f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; "
        raise forbidden(
            "", "pods", name, f"{text}priority admission controller computed {priority} from the given name"
        )
    spec["priority"] = priority
    spec.setdefault("preemptionPolicy", preemption)


def admit_service(store: Store, service: JsonObject, old: JsonObject | None) -> None:
    """Give a service the addresses and node ports that it lacks, and keep those it has.

    Raises:
        ApiError: 422, the address or port that it asks for is taken or outside the range.
    """
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)
        return
    former = (old or {}).get("spec") or {}
    if not spec.get("clusterIP"):
        spec["clusterIP"] = former.get("clusterIP") or _free_address(store)
    elif spec["clusterIP"] not in {"None", former.get("clusterIP")}:
        _require_free_address(store, service)
    spec["clusterIPs"] = [spec["clusterIP"]]
    if spec.get("type") in {"NodePort", "LoadBalancer"}:
        taken = {
            port["nodePort"]
            for stored in store.each(SERVICES)
            if stored.value["metadata"].get("uid") != service["metadata"].get("uid")
            for port in stored.value["spec"].get("ports") or []
            if "nodePort" in port
        }
        kept = {(port.get("port"), port.get("protocol")): port.get("nodePort") for port in former.get("ports") or []}
        for port in spec.get("ports") or []:
            number = port.get("nodePort") or kept.get((port.get("port"), port.get("protocol")))
            if not number:
                number = next(candidate for candidate in _NODE_PORTS if candidate not in taken)
            taken.add(number)
            port["nodePort"] = number


def _addresses(store: Store) -> set[str]:
    return {stored.value["spec"].get("clusterIP", "") for stored in store.each(SERVICES)}


def _free_address(store: Store) -> str:
    taken = _addresses(store)
    # The first addresses are left to well-known services, as the real allocator does.
    start = 10 + secrets.randbelow(_SERVICE_NETWORK.num_addresses - 20)
    candidates = (str(_SERVICE_NETWORK[start + offset]) for offset in range(_SERVICE_NETWORK.num_addresses - start))
    return next(address for address in candidates if address not in taken)


def _require_free_address(store: Store, service: JsonObject) -> None:
    wanted = service["spec"]["clusterIP"]
    name = service["metadata"]["name"]
    try:
        inside = ipaddress.ip_address(wanted) in _SERVICE_NETWORK
    except ValueError:
        inside = False
    if not inside:
        text = f"failed to allocate IP {wanted}: the provided network does not match the current range"
        raise invalid("", "Service", name, [invalid_value("spec.clusterIPs", [wanted], text)])
    if wanted in _addresses(store):
        text = f"failed to allocate IP {wanted}: provided IP is already allocated"
        raise invalid("", "Service", name, [invalid_value("spec.clusterIPs", [wanted], text)])


def refuse_system_namespace(name: str) -> None:
    """Refuse to delete the namespaces that a cluster cannot be without.

    Raises:
        ApiError: 403.
    """
    if name in _SYSTEM_NAMESPACES:
        raise forbidden("", "namespaces", name, "this namespace may not be deleted")


def generated_name(prefix: str, taken: Callable[[str], bool]) -> str:
    """A new name that starts with `prefix`.

    Raises:
        ApiError: 400, no free name was found in a few tries.
    """
    for _ in range(8):
        name = f"{prefix[:58]}{random_suffix()}"
        if not taken(name):
            return name
    raise bad_request(f"unable to find a free name for generateName {prefix!r}")
