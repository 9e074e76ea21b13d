"""What a container's process is started with: arguments, environment variables and the places of its volumes.

Pure: everything that has to be fetched is handed in. Owns the replacement of mount paths, which stands in for a mount
namespace: wherever a path at or below a volume's mount path begins in an argument or a variable, it becomes local.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sandbox.kube.quantity import divide_up

JsonObject = dict[str, Any]

_REFERENCE: Final = re.compile(r"\$(\$|\(([A-Za-z_.-][A-Za-z0-9_.-]*)\))")
_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")


class ConfigError(Exception):
    """The container cannot be set up. `reason` is that of its waiting state; the text says what to change."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Sources:
    """Contents of the ConfigMaps and Secrets of the pod's namespace, as far as the pod refers to them.

    A name that is missing does not exist. Values are text for ConfigMaps, bytes for Secrets.
    """

    config_maps: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Facts about the pod that its fields cannot tell."""

    pod_ip: str
    host_ip: str
    node: JsonObject
    images: Mapping[str, Sequence[str]]
    base: Mapping[str, str]
    """Variables of every container; those of the container itself come after them and win."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)`; `$$` stands for `$`, and names that are not known stay as they are."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


def image_name(image: str) -> str:
    """`whatsapp-worker` of `registry.example/team/whatsapp-worker:1.2@sha256:...`."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def entry_point(container: JsonObject, images: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The arguments to start: those of the image, whose paths are this machine's, and those of the container.

    Raises:
        ConfigError: The image is not known, and the container has no command of its own.
    """
    command, args = container.get("command"), container.get("args") or []
    if command:
        return [], [*command, *args]
    name = image_name(container.get("image") or "")
    if name not in images:
        known = ", ".join(sorted(images)) or "none"
        raise ConfigError(
            "ErrImagePull",
            f"image {container.get('image')!r} is not in the table of the pod runner, which runs local programs "
            f"instead of images; give the container a command, or use one of: {known}",
        )
    return list(images[name]), args


# --- Variables --------------------------------------------------------------------------------------------------------


def field_value(pod: JsonObject, path: str, surroundings: Surroundings) -> str:
    """The text of a `fieldRef`.

    Raises:
        ConfigError: The field cannot be referred to.
    """
    meta, spec = pod["metadata"], pod["spec"]
    if match := _SUBSCRIPT.fullmatch(path):
        return str((meta.get(match[1]) or {}).get(match[2], ""))
    simple = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": surroundings.host_ip,
        "status.hostIPs": surroundings.host_ip,
        "status.podIP": surroundings.pod_ip,
        "status.podIPs": surroundings.pod_ip,
    }
    if path in simple:
        return str(simple[path])
    if path in {"metadata.labels", "metadata.annotations"}:
        values = meta.get(path.partition(".")[2]) or {}
        return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted(values.items()))
    raise ConfigError("CreateContainerConfigError", f"fieldPath {path!r} is not supported")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(pod: JsonObject, container: JsonObject, reference: JsonObject, surroundings: Surroundings) -> str:
    """The text of a `resourceFieldRef`: an amount divided by its divisor, rounded up.

    A limit that is not set counts as what the node has.

    Raises:
        ConfigError: The container or resource that it names does not exist.
    """
    source = container
    if name := reference.get("containerName"):
        everything = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]
        found = next((item for item in everything if item["name"] == name), None)
        if found is None:
            raise ConfigError("CreateContainerConfigError", f"resourceFieldRef: there is no container {name!r}")
        source = found
    kind, _, resource = reference["resource"].partition(".")
    if kind not in {"limits", "requests"}:
        text = f"resourceFieldRef: {reference['resource']!r} is not limits.<name> or requests.<name>"
        raise ConfigError("CreateContainerConfigError", text)
    amount = ((source.get("resources") or {}).get(kind) or {}).get(resource)
    if amount is None:
        amount = "0"
        if kind == "limits":
            amount = ((surroundings.node.get("status") or {}).get("allocatable") or {}).get(resource, "0")
    divisor = reference.get("divisor") or "1"
    return str(divide_up(amount, "1" if divisor == "0" else divisor))


def _from_key(kind: str, sources: Mapping[str, Mapping[str, bytes]], reference: JsonObject) -> str | None:
    """The text of a key of a ConfigMap or Secret; nothing where it is missing and may be."""
    name, key = reference.get("name", ""), reference["key"]
    if name not in sources:
        if reference.get("optional"):
            return None
        raise ConfigError("CreateContainerConfigError", f'{kind} "{name}" not found')
    if key not in sources[name]:
        if reference.get("optional"):
            return None
        raise ConfigError("CreateContainerConfigError", f"couldn't find key {key} in {kind} {name}")
    return sources[name][key].decode()


def _all_of(container: JsonObject, sources: Sources) -> dict[str, str]:
    """The variables of `envFrom`."""
    found: dict[str, str] = {}
    for entry in container.get("envFrom") or []:
        for field_name, kind, contents in (
            ("configMapRef", "configmap", sources.config_maps),
            ("secretRef", "secret", sources.secrets),
        ):
            reference = entry.get(field_name)
            if reference is None:
                continue
            name = reference.get("name", "")
            if name not in contents:
                if reference.get("optional"):
                    continue
                raise ConfigError("CreateContainerConfigError", f'{kind} "{name}" not found')
            for key, value in contents[name].items():
                variable = entry.get("prefix", "") + key
                if _VARIABLE_NAME.fullmatch(variable):
                    found[variable] = value.decode()
    return found


def variables(pod: JsonObject, container: JsonObject, sources: Sources, surroundings: Surroundings) -> dict[str, str]:
    """The environment of a container, before mount paths are replaced.

    Raises:
        ConfigError: Something that it refers to does not exist.
    """
    result = {**surroundings.base, **_all_of(container, sources)}
    for variable in container.get("env") or []:
        source = variable.get("valueFrom")
        value: str | None
        if source is None:
            value = expand(variable.get("value") or "", result)
        elif "fieldRef" in source:
            value = field_value(pod, source["fieldRef"]["fieldPath"], surroundings)
        elif "resourceFieldRef" in source:
            value = resource_value(pod, container, source["resourceFieldRef"], surroundings)
        elif "secretKeyRef" in source:
            value = _from_key("secret", sources.secrets, source["secretKeyRef"])
        elif "configMapKeyRef" in source:
            value = _from_key("configmap", sources.config_maps, source["configMapKeyRef"])
        else:
            text = f"env {variable['name']}: this source of a value is not supported"
            raise ConfigError("CreateContainerConfigError", text)
        if value is not None:
            result[variable["name"]] = value
    return result


# --- Paths ------------------------------------------------------------------------------------------------------------


def mounts(container: JsonObject, volumes: Mapping[str, Path], environment: Mapping[str, str]) -> dict[str, Path]:
    """Mount paths and the local directories behind them.

    Raises:
        ConfigError: A subPath leads out of its volume.
    """
    found: dict[str, Path] = {}
    for mount in container.get("volumeMounts") or []:
        root = volumes[mount["name"]]
        sub_path = expand(mount["subPathExpr"], environment) if mount.get("subPathExpr") else mount.get("subPath") or ""
        if sub_path.startswith("/") or ".." in Path(sub_path).parts:
            text = f"subPath {sub_path!r} of volume {mount['name']!r} must be relative and must not contain '..'"
            raise ConfigError("CreateContainerConfigError", text)
        found[mount["mountPath"].rstrip("/") or "/"] = root / sub_path
    return found


_BEFORE_PATH: Final = r"(^|file://|[\s=:,;\"'(<>|&])"
_AFTER_PATH: Final = r"(?=[/\s:,;\"')<>|&]|$)"


def relocated(text: str, places: Mapping[str, Path]) -> str:
    """`text` with mount paths replaced by the local ones, wherever a path can begin: also within a shell command.

    In one pass, because a local path may itself lie below another mount path (`/tmp`).
    """
    paths = sorted((path for path in places if path != "/"), key=len, reverse=True)
    if not any(path in text for path in paths):
        return text
    alternatives = "|".join(re.escape(path) for path in paths)
    pattern = f"{_BEFORE_PATH}({alternatives}){_AFTER_PATH}"
    return re.sub(pattern, lambda match: match[1] + str(places[match[2]]), text)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a container's process."""

    argv: list[str]
    environment: dict[str, str]
    directory: Path
    places: Mapping[str, Path]

    def local(self, argv: Sequence[str]) -> list[str]:
        """Another command in the same container, for probes and hooks."""
        return [relocated(expand(item, self.environment), self.places) for item in argv]


def launch(
    pod: JsonObject,
    container: JsonObject,
    sources: Sources,
    surroundings: Surroundings,
    *,
    volumes: Mapping[str, Path],
    home: Path,
) -> Launch:
    """Everything that the process is started with.

    Raises:
        ConfigError: Something is missing or not supported.
    """
    plain = variables(pod, container, sources, surroundings)
    places = mounts(container, volumes, plain)
    # What the runner gives every container names paths of this machine; only the pod's own words speak of its mounts.
    given = surroundings.base.items() & plain.items()
    environment = {name: value if (name, value) in given else relocated(value, places) for name, value in plain.items()}
    program, words = entry_point(container, surroundings.images)
    argv = [*program, *(relocated(expand(item, plain), places) for item in words)]
    directory = home
    if wanted := container.get("workingDir"):
        moved = relocated(wanted, places)
        # A directory of an image does not exist here; one of a volume is made when it is needed.
        directory = Path(moved) if moved != wanted or Path(moved).is_dir() else home
    return Launch(argv, environment, directory, places)
