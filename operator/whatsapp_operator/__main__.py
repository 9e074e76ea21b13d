"""Starts the operator: `python -m whatsapp_operator`."""

from __future__ import annotations

import os
import sys

import kopf

from session_worker import logs
from session_worker.environment import ConfigurationError
from whatsapp_operator import handlers  # noqa: F401  # the import registers them with kopf
from whatsapp_operator.config import OperatorConfig


def main() -> None:
    """Run until SIGTERM; a wrong environment ends it at once with a sentence for each variable."""
    try:
        config = OperatorConfig.from_env(os.environ)
    except ConfigurationError as error:
        sys.exit(f"configuration: {error}")
    logs.configure("operator", config.log_level)
    memo = kopf.Memo()
    kopf.run(
        registry=kopf.get_default_registry(),
        standalone=True,
        clusterwide=not config.namespaces,
        namespaces=config.namespaces,
        memo=memo,
    )
    if memo.get("superseded"):
        sys.exit("the lease was lost: another operator leads")


if __name__ == "__main__":
    main()
